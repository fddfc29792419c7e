"""ChatHomer: LangChain's model of messages."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from homer import Answer, AnswerStream, AnswerStreams
from homer_integrations.langchain.base import STRICT, metadata_of, usage_of
from homer_integrations.langchain.cache import KeyedCache
from homer_integrations.langchain.choices import HomerChoices
from homer_integrations.langchain.citing import annotations_of, as_block, text_block
from homer_integrations.langchain.messages import as_asked
from homer_integrations.langchain.tools import Chunks, logprobs_of, structured, tool_arguments, words_and_calls
from homer_integrations.shared.citing import citations_of
from homer_integrations.shared.conversation import REASONING, to_conversation
from homer_integrations.shared.threads import answer_in_thread, stream_in_thread
from homer_integrations.shared.tools import take_wanted, wants_calls

_MAX_INPUT_TOKENS = 2**20  # far beyond any window: a longer prompt is compressed, and none is refused


class ChatHomer(HomerChoices, BaseChatModel):
    """A local chat model that reads whole documents, and conversations longer than its window.

    Documents are given as `documents=` of a call or of `.bind`, as content blocks of type text-plain, or under
    "documents" in a message's additional_kwargs. Without any, a prompt that is longer than the window is split by
    itself: the question stays whole, and the rest is compressed. `place=` names a text in the messages where the
    documents belong, in place of before the question. `response_metadata` tells finish_reason,
    model_name, input_tokens, kept_tokens, and what survived of the documents (sources); with `trace=True` also
    what `homer.show` draws, under "homer", with the text of all documents; with `logprobs=True` also how likely each
    token was, under "logprobs", as OpenAI tells it. `generate` gives `n` answers to a prompt.

    With `cite=True`, of construction or of a call, each sentence of an answer says which parts of the documents it
    rests on: the content is one block of text, with LangChain's citations as its annotations, and response_metadata
    tells the same under "citations". Of a stream, both come at its end.

    What a model thinks before it answers is a block of type reasoning in `content_blocks`, and "reasoning_content" in
    additional_kwargs; max_tokens counts it.

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
            max_input_tokens=_MAX_INPUT_TOKENS, text_inputs=True, text_outputs=True, tool_calling=True,
            tool_choice=True, structured_output=True, image_inputs=False, audio_inputs=False, video_inputs=False,
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
        return self._results(self._open_all(messages, stop, kwargs).answers(), kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answers = await answer_in_thread(functools.partial(self._open_all, messages, stop, kwargs))
        return self._results(answers, kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        self._drawn(kwargs).check_one()
        stream, chunks = self._open(messages, stop, kwargs), Chunks(wants_calls(kwargs))
        for message in itertools.chain((m for piece in stream.parts() for m in chunks.of(piece)), chunks.rest()):
            chunk = self._chunk(message, kwargs)
            if run_manager is not None:
                run_manager.on_llm_new_token(message.text, chunk=chunk)
            yield chunk
        yield self._last_chunk(stream.answer(), kwargs, chunks)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        self._drawn(kwargs).check_one()
        chunks = Chunks(wants_calls(kwargs))
        items = stream_in_thread(functools.partial(self._open, messages, stop, kwargs))
        async with contextlib.aclosing(items):
            async for item in items:
                for message in chunks.rest() if isinstance(item, Answer) else chunks.of(item):
                    chunk = self._chunk(message, kwargs)
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(message.text, chunk=chunk)
                    yield chunk
                if isinstance(item, Answer):
                    yield self._last_chunk(item, kwargs, chunks)
                    return

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools that it may call; arguments always hold to a tool's schema. Needs `[structured]`.

        Args:
            tools: whatever LangChain makes tools of.
            tool_choice: "auto", "none", "any" or "required", or a tool's name; see HomerModel.turn for "auto".
            strict: taken, and without effect: arguments hold to the schema in any case.
            parallel_tool_calls: whether one answer may hold several calls; None leaves it to the model.

        Raises:
            GenerationError: a tool_choice that names no tool.
        """
        return self.bind(**tool_arguments(tools, tool_choice, parallel_tool_calls), **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: str = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The model with answers that hold to a schema, as instances of a pydantic class or as dicts.

        Every token is chosen from those that the schema allows, whatever the method. An answer that max_tokens cuts is
        no valid JSON, and raises OutputParserException. Needs `[structured]`.

        Args:
            schema: a pydantic class, a TypedDict, or a JSON schema.
            include_raw: give {"raw", "parsed", "parsing_error"}.
            method: "json_schema" and "json_mode" ask for JSON, "function_calling" for the call of a tool.
            strict: taken, and without effect, since it is always so.
            kwargs: more arguments of every call.

        Raises:
            GenerationError: another method.
        """
        return structured(self, schema, include_raw, method, strict=strict, **kwargs)

    def _open(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, arguments: Mapping[str, Any]
    ) -> AnswerStream:
        arguments = dict(arguments)
        asked = to_conversation(messages, arguments.pop("documents", None), arguments.pop("place", None))
        wanted, drawn = take_wanted(arguments), self._take_drawn(arguments)
        call = drawn.told(self._call(stop, arguments))
        return call.stream(asked.messages, asked.documents, asked.place, wanted)

    def _open_all(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, arguments: Mapping[str, Any]
    ) -> AnswerStreams:
        return self._open(messages, stop, arguments).several(self._drawn(arguments).n)

    def _results(self, answers: Sequence[Answer], arguments: Mapping[str, Any]) -> ChatResult:
        results = [self._result(answer, arguments) for answer in answers]
        return ChatResult(generations=[generation for result in results for generation in result.generations])

    def _result(self, answer: Answer, arguments: Mapping[str, Any]) -> ChatResult:
        words, calls = words_and_calls(answer.text) if wants_calls(arguments) else (answer.text, [])
        content: Any = words
        if self.cites(arguments) and words:
            content = [text_block(words, annotations_of(answer, words))]
        metadata = self._metadata(answer, arguments, bool(calls), words) | logprobs_of(answer.logprobs)
        message = AIMessage(
            content=content, tool_calls=calls, usage_metadata=usage_of(answer), response_metadata=metadata,
            additional_kwargs={REASONING: answer.reasoning} if answer.reasoning else {},
        )  # fmt: skip
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, message: AIMessageChunk, arguments: Mapping[str, Any]) -> ChatGenerationChunk:
        return ChatGenerationChunk(message=as_block(message) if self.cites(arguments) else message)

    def _last_chunk(self, answer: Answer, arguments: Mapping[str, Any], chunks: Chunks) -> ChatGenerationChunk:
        """Holds no text: usage, metadata and citations must come once, and they are known at the end only."""
        words = words_and_calls(answer.text)[0] if chunks.called else answer.text
        annotations = annotations_of(answer, words) if self.cites(arguments) else []
        message = AIMessageChunk(
            content=[text_block("", annotations)] if annotations else "",
            usage_metadata=usage_of(answer),
            response_metadata=self._metadata(answer, arguments, chunks.called, words) | chunks.untold(answer),
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def _metadata(self, answer: Answer, arguments: Mapping[str, Any], called: bool, words: str) -> dict[str, Any]:
        cited = citations_of(answer, words) if self.cites(arguments) else None
        return metadata_of(answer, self.named(arguments), self.traces(arguments), called, cited)
