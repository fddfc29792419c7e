"""ChatHomer: LangChain's model of messages."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable

from homer import Answer, AnswerStream
from homer_integrations.langchain.base import NO_SCHEMA, NO_TOOLS, STRICT, HomerRunnable, metadata_of, usage_of
from homer_integrations.langchain.cache import KeyedCache
from homer_integrations.langchain.messages import as_asked
from homer_integrations.shared.conversation import to_conversation
from homer_integrations.shared.threads import answer_in_thread, stream_in_thread

_MAX_INPUT_TOKENS = 2**20  # far beyond any window: a longer prompt is compressed, and none is refused


class ChatHomer(HomerRunnable, BaseChatModel):
    """A local chat model that reads whole documents, and conversations longer than its window.

    Documents are given as `documents=` of a call or of `.bind`, as content blocks of type text-plain, or under
    "documents" in a message's additional_kwargs. Without any, a prompt that is longer than the window is split by
    itself: the question stays whole, and the rest is compressed. `place=` names a text in the messages where the
    documents belong, in place of before the question. `response_metadata` tells finish_reason,
    model_name, input_tokens, kept_tokens, and what survived of the documents (sources); with `trace=True` also
    what `homer.show` draws, under "homer", with the text of all documents.

    Raises:
        HomerError: in every call, where the input or a setting is bad; the message says what to change.
    """

    model_config = STRICT

    streaming: bool = False

    @property
    def _llm_type(self) -> str:
        return "homer-chat"

    def _resolve_model_profile(self) -> ModelProfile:
        return ModelProfile(
            max_input_tokens=_MAX_INPUT_TOKENS, text_inputs=True, text_outputs=True, tool_calling=False,
            structured_output=False, image_inputs=False, audio_inputs=False, video_inputs=False,
        )  # fmt: skip

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        kwargs["model"] = self.named(kwargs)
        own = [self.stop] if isinstance(self.stop, str) else self.stop
        return super()._get_ls_params(stop=stop or own, **kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        return self.cache.key if isinstance(self.cache, KeyedCache) else self._key(stop, kwargs)

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        messages, kwargs = as_asked(messages, kwargs)
        keyed = self._keyed(stop, kwargs)
        return BaseChatModel._generate_with_cache(keyed, messages, stop, run_manager, **kwargs)

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        messages, kwargs = as_asked(messages, kwargs)
        keyed = self._keyed(stop, kwargs)
        return await BaseChatModel._agenerate_with_cache(keyed, messages, stop, run_manager, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._result(self._open(messages, stop, kwargs).answer(), kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = await answer_in_thread(functools.partial(self._open, messages, stop, kwargs))
        return self._result(answer, kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        stream = self._open(messages, stop, kwargs)
        for piece in stream:
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
            if run_manager is not None:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield self._last_chunk(stream.answer(), kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        items = stream_in_thread(functools.partial(self._open, messages, stop, kwargs))
        async with contextlib.aclosing(items):
            async for item in items:
                if isinstance(item, Answer):
                    yield self._last_chunk(item, kwargs)
                    return
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=item))
                if run_manager is not None:
                    await run_manager.on_llm_new_token(item, chunk=chunk)
                yield chunk

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Refused. Raises NotImplementedError."""
        raise NotImplementedError(NO_TOOLS)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Refused. Raises NotImplementedError."""
        raise NotImplementedError(NO_SCHEMA)

    def _open(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, arguments: Mapping[str, Any]
    ) -> AnswerStream:
        arguments = dict(arguments)
        asked = to_conversation(messages, arguments.pop("documents", None), arguments.pop("place", None))
        return self._call(stop, arguments).stream(asked.messages, asked.documents, asked.place)

    def _result(self, answer: Answer, arguments: Mapping[str, Any]) -> ChatResult:
        message = AIMessage(
            content=answer.text, usage_metadata=usage_of(answer), response_metadata=self._metadata(answer, arguments)
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _last_chunk(self, answer: Answer, arguments: Mapping[str, Any]) -> ChatGenerationChunk:
        """Holds no text: usage and metadata must come once, and they are known at the end only."""
        message = AIMessageChunk(
            content="",
            usage_metadata=usage_of(answer),
            response_metadata=self._metadata(answer, arguments),
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def _metadata(self, answer: Answer, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return metadata_of(answer, self.named(arguments), self.traces(arguments))
