"""HomerLLM: a local model as LlamaIndex calls it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

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
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import BaseTool
from llama_index.core.types import Model
from llama_index.core.utils import set_global_tokenizer
from pydantic import ConfigDict, Field, field_serializer

from homer import AnswerStream, GenerationError
from homer_integrations.llama_index.nodes import to_conversation
from homer_integrations.llama_index.responses import CallResponses, Responses, chat, completion
from homer_integrations.llama_index.tools import selections_of, tool_arguments, whole, whole_later
from homer_integrations.shared.settings import HomerSettings
from homer_integrations.shared.threads import answer_in_thread, stream_in_thread
from homer_integrations.shared.tools import take_wanted, wants_calls


class HomerLLM(HomerSettings, FunctionCallingLLM):
    """A local model that answers from prompts and documents of any length.

    A prompt longer than the model's window is compressed inside the call: nothing is truncated, so the window
    that LlamaIndex sees is `context_window`. Documents may also be given to every call by themselves, as
    `documents=`, a list of strings, mappings, or LlamaIndex's documents and nodes; or as document blocks.

    Args:
        model: a hub id, a folder, "mini", or a loaded HomerModel; loaded when first needed, and shared.
        context_window: most tokens of one call, by which LlamaIndex's own synthesizers split.

    See HomerSettings for all others; temperature, top_p, top_k, min_p, seed, repetition_penalty, stop,
    max_tokens, timeout, trace, cite, chat_template_kwargs and the fields of HomerConfig may be given to a call as well.
    With `cite=True` a message holds a CitationBlock for each sentence and part that it rests on, and `raw["homer"]` the
    same, as "citations"; of a stream, the last one does. What a model thinks before it answers stands in a
    ThinkingBlock, and while it comes under "thinking_delta".

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
            is_function_calling_model=True,
            model_name=self.model_name,
        )

    @field_serializer("model")
    def _name_model(self, _: Any) -> str:
        return self.model_name

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The answer to a prompt, which is asked as a user's message."""
        return self._completions(kwargs).whole(self._open_prompt(prompt, formatted, kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """The same as it is generated; `raw` comes with the last response."""
        return self._completions(kwargs).each(self._open_prompt(prompt, formatted, kwargs))

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The answer to a conversation, the last message of which is the user's."""
        return self._chats(kwargs).whole(self._open(messages, kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """The same as it is generated; `raw` comes with the last response."""
        return self._chats(kwargs).each(self._open(messages, kwargs))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """As `complete`, in a thread."""
        answer = await answer_in_thread(lambda: self._open_prompt(prompt, formatted, kwargs))
        return self._completions(kwargs).of_answer(answer)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """As `stream_complete`, in a thread; leaving the stream ends the work."""
        items = stream_in_thread(lambda: self._open_prompt(prompt, formatted, kwargs))
        return self._completions(kwargs).each_async(items)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As `chat`, in a thread."""
        answer = await answer_in_thread(lambda: self._open(messages, kwargs))
        return self._chats(kwargs).of_answer(answer)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """As `stream_chat`, in a thread; leaving the stream ends the work."""
        return self._chats(kwargs).each_async(stream_in_thread(lambda: self._open(messages, kwargs)))

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of a response; of one that is still coming, the arguments so far.

        Raises:
            GenerationError: no call, unless error_on_no_tool_call is False.
        """
        calls = selections_of(response.message)
        if error_on_no_tool_call and not calls:
            reason = response.raw.get("finish_reason") if isinstance(response.raw, dict) else None
            raise GenerationError(
                f"the answer calls no tool (finish_reason {reason!r}): give tool_required=True, or where it was cut, "
                f"raise max_tokens"
            )
        return calls

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        messages = [*(chat_history or ()), *([user_msg] if user_msg is not None else [])]
        wanted = tool_arguments(tools, tool_choice, tool_required, allow_parallel_tool_calls)
        return {"messages": messages} | wanted | kwargs

    def _structured_stream_call(
        self, output_cls: type[Model], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        program = self._program(output_cls, prompt)
        return whole(program.stream_call(llm_kwargs=dict(llm_kwargs or {}), **prompt_args), output_cls)

    async def _structured_astream_call(
        self, output_cls: type[Model], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        program = self._program(output_cls, prompt)
        objects = await program.astream_call(llm_kwargs=dict(llm_kwargs or {}), **prompt_args)
        return whole_later(objects, output_cls)

    def _program(self, output_cls: type[Model], prompt: Any) -> FunctionCallingProgram[Model]:
        """LlamaIndex's own leaves it to the model whether the object comes when it is streamed."""
        return FunctionCallingProgram.from_defaults(output_cls, prompt=prompt, llm=self, tool_choice="required")

    def _open(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> AnswerStream:
        """The one road of every call: nothing runs before the stream is read."""
        arguments = {name: value for name, value in kwargs.items() if name not in ("documents", "place")}
        asked = to_conversation(messages, kwargs.get("documents"), kwargs.get("place"))
        wanted = take_wanted(arguments)
        return self.call(None, arguments).stream(asked.messages, asked.documents, asked.place, wanted)

    def _open_prompt(self, prompt: str, formatted: bool, kwargs: dict[str, Any]) -> AnswerStream:
        if kwargs.get("tools"):
            raise GenerationError("complete() answers in text, which holds no calls: use chat() with tools")
        if not formatted and self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        return self._open([ChatMessage(role=MessageRole.USER, content=prompt)], kwargs)

    def _chats(self, kwargs: dict[str, Any]) -> Responses[ChatResponse]:
        told = self.named(kwargs), self.traces(kwargs), self.cites(kwargs)
        return CallResponses(*told) if wants_calls(kwargs) else Responses(chat, *told)

    def _completions(self, kwargs: dict[str, Any]) -> Responses[CompletionResponse]:
        return Responses(completion, self.named(kwargs), self.traces(kwargs), self.cites(kwargs))


class _Tokenizer:
    """The tokens of a text, by the tokenizer of the model, which is loaded when first asked."""

    def __init__(self, llm: HomerLLM) -> None:
        self._llm = llm

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._llm.load().require_tokenizer("count tokens")(
            text, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids
