"""HomerLLM: a local model as LlamaIndex calls it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from typing import Any, TypeVar

import llama_index.core
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.utils import set_global_tokenizer
from pydantic import ConfigDict, Field, field_serializer

from homer import Answer, AnswerStream
from homer_integrations.llama_index.nodes import to_conversation
from homer_integrations.shared.facts import facts_of
from homer_integrations.shared.settings import HomerSettings
from homer_integrations.shared.threads import answer_in_thread, stream_in_thread

_Response = TypeVar("_Response", ChatResponse, CompletionResponse)
_Teller = Callable[[Answer], dict[str, Any]]


class HomerLLM(HomerSettings, CustomLLM):
    """A local model that answers from prompts and documents of any length.

    A prompt longer than the model's window is compressed inside the call: nothing is truncated, so the window
    that LlamaIndex sees is `context_window`. Documents may also be given to every call by themselves, as
    `documents=`, a list of strings, mappings, or LlamaIndex's documents and nodes; or as document blocks.

    Args:
        model: a hub id, a folder, "mini", or a loaded HomerModel; loaded when first needed, and shared.
        context_window: most tokens of one call, by which LlamaIndex's own synthesizers split.

    See HomerSettings for all others; temperature, top_p, top_k, min_p, seed, repetition_penalty, stop,
    max_tokens, timeout, trace and the fields of HomerConfig may be given to a call as well.

    Raises:
        HomerError: its children, when called; each says what to change.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    context_window: int = Field(default=2**20, gt=0, description="Most tokens of one call; none needs to fit a window.")

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        current = llama_index.core.global_tokenizer
        if current is None or isinstance(current, _Tokenizer):  # one that the user chose stays
            set_global_tokenizer(_Tokenizer(self))

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows this class."""
        return "HomerLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex plans by; does not load the model."""
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_tokens or 256,
            is_chat_model=True,
            model_name=self.model_name,
        )

    @field_serializer("model")
    def _name_model(self, _: Any) -> str:
        return self.model_name

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The answer to a prompt, which is asked as a user's message."""
        return _whole(self._open(self._asked(prompt, formatted), kwargs).answer(), self._teller(kwargs), _completion)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """The same as it is generated; `raw` comes with the last response."""
        return _each(self._open(self._asked(prompt, formatted), kwargs), self._teller(kwargs), _completion)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The answer to a conversation, the last message of which is the user's."""
        return _whole(self._open(messages, kwargs).answer(), self._teller(kwargs), _chat)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """The same as it is generated; `raw` comes with the last response."""
        return _each(self._open(messages, kwargs), self._teller(kwargs), _chat)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """As `complete`, in a thread."""
        answer = await answer_in_thread(lambda: self._open(self._asked(prompt, formatted), kwargs))
        return _whole(answer, self._teller(kwargs), _completion)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """As `stream_complete`, in a thread; leaving the stream ends the work."""
        items = stream_in_thread(lambda: self._open(self._asked(prompt, formatted), kwargs))
        return _each_async(items, self._teller(kwargs), _completion)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As `chat`, in a thread."""
        answer = await answer_in_thread(lambda: self._open(messages, kwargs))
        return _whole(answer, self._teller(kwargs), _chat)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """As `stream_chat`, in a thread; leaving the stream ends the work."""
        return _each_async(stream_in_thread(lambda: self._open(messages, kwargs)), self._teller(kwargs), _chat)

    def _open(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> AnswerStream:
        """The one road of every call: nothing runs before the stream is read."""
        arguments = {name: value for name, value in kwargs.items() if name not in ("documents", "place")}
        asked = to_conversation(messages, kwargs.get("documents"), kwargs.get("place"))
        return self.call(None, arguments).stream(asked.messages, asked.documents, asked.place)

    def _asked(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        if not formatted and self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        return [ChatMessage(role=MessageRole.USER, content=prompt)]

    def _teller(self, kwargs: dict[str, Any]) -> _Teller:
        return functools.partial(_raw, name=self.named(kwargs), trace=self.traces(kwargs))


class _Tokenizer:
    """The tokens of a text, by the tokenizer of the model, which is loaded when first asked."""

    def __init__(self, llm: HomerLLM) -> None:
        self._llm = llm

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._llm.load().require_tokenizer("count tokens")(
            text, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids


def _completion(text: str, delta: str | None, raw: dict[str, Any] | None) -> CompletionResponse:
    return CompletionResponse(text=text, delta=delta, raw=raw)


def _chat(text: str, delta: str | None, raw: dict[str, Any] | None) -> ChatResponse:
    return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=text), delta=delta, raw=raw)


_Maker = Callable[[str, str | None, dict[str, Any] | None], _Response]


def _whole(answer: Answer, tell: _Teller, make: _Maker[_Response]) -> _Response:
    return make(answer.text, None, tell(answer))


def _each(stream: AnswerStream, tell: _Teller, make: _Maker[_Response]) -> Generator[_Response, None, None]:
    text = ""
    for piece in stream:
        text += piece
        yield make(text, piece, None)
    yield make(text, "", tell(stream.answer()))


async def _each_async(
    items: AsyncIterator[str | Answer], tell: _Teller, make: _Maker[_Response]
) -> AsyncGenerator[_Response, None]:
    text = ""
    async with contextlib.aclosing(items) as open_items:  # type: ignore[type-var]
        async for item in open_items:
            if isinstance(item, Answer):
                yield make(text, "", tell(item))
            else:
                text += item
                yield make(text, item, None)


def _raw(answer: Answer, name: str, trace: bool) -> dict[str, Any]:
    """Usage under the names that LlamaIndex's token counter reads, and the answer's own facts."""
    usage = answer.usage
    return {
        "model": name,
        "finish_reason": answer.finish_reason,
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "kept_tokens": usage.kept_tokens,
            **({"cached_tokens": usage.cached_tokens} if usage.cached_tokens else {}),
        },
        "homer": facts_of(answer, trace),
    }
