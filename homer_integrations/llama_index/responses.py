"""Answers as LlamaIndex's responses: whole or piece by piece, in words and in calls of tools."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from homer import Answer, AnswerStream, CallPiece, CallReader, Thought
from homer_integrations.llama_index.citing import citation_blocks
from homer_integrations.shared.citing import citations_of
from homer_integrations.shared.facts import facts_of
from homer_integrations.shared.tools import new_call_id

ResponseT = TypeVar("ResponseT", ChatResponse, CompletionResponse)
Maker = Callable[[str, str | None, dict[str, Any] | None, str, str | None], ResponseT]


class Responses(Generic[ResponseT]):
    """The responses of one call.

    Args:
        make: a response from text so far, the piece that came last, facts, thoughts so far, and the last of these.
        name: the model's name.
        trace: whether facts tell all that `homer.show` draws.
        cite: whether they tell what each sentence rests on; messages then hold citation blocks as well.
    """

    def __init__(self, make: Maker[ResponseT], name: str, trace: bool, cite: bool = False) -> None:
        self._make: Maker[ResponseT] = make
        self._name, self._trace, self._cite = name, trace, cite
        self._text = self._thought = ""
        self._news: str | None = None  # the piece of thought that came last

    def whole(self, stream: AnswerStream) -> ResponseT:
        """The response to the whole answer."""
        return self.of_answer(stream.answer())

    def of_answer(self, answer: Answer) -> ResponseT:
        """The same, of an answer that is there."""
        self._text, self._thought = answer.text, answer.reasoning
        return self._ended(None, answer)

    def each(self, stream: AnswerStream) -> Generator[ResponseT, None, None]:
        """A response for every piece; the last has the facts, and no piece."""
        for piece in stream.parts():
            yield from self._read(piece)
        yield from self._rest()
        yield self._ended("", stream.answer())

    async def each_async(self, items: AsyncIterator[str | Answer]) -> AsyncGenerator[ResponseT, None]:
        """The same of pieces from a thread."""
        async with contextlib.aclosing(items) as open_items:  # type: ignore[type-var]
            async for item in open_items:
                for response in self._rest() if isinstance(item, Answer) else self._read(item):
                    yield response
                if isinstance(item, Answer):
                    yield self._ended("", item)

    def _read(self, piece: str) -> Iterator[ResponseT]:
        """A piece of thought, whose response has no new text, or one of the answer."""
        if not isinstance(piece, Thought):
            yield from self._pieces(piece)
            return
        self._thought += piece
        self._news = str(piece)
        yield self._response("", None)
        self._news = None

    def _pieces(self, piece: str) -> Iterator[ResponseT]:
        self._text += piece
        yield self._response(piece, None)

    def _rest(self) -> Iterator[ResponseT]:
        yield from ()

    def _response(self, delta: str | None, raw: dict[str, Any] | None) -> ResponseT:
        return self._make(self._text, delta, raw, self._thought, self._news)

    def _ended(self, delta: str | None, answer: Answer) -> ResponseT:
        """The last response, with all that is known at the end only."""
        response = self._response(delta, self._facts(answer))
        if self._cite and isinstance(response, ChatResponse):
            response.message.blocks += citation_blocks(answer, self._text)
        return response

    def _facts(self, answer: Answer) -> dict[str, Any]:
        """Usage under the names that LlamaIndex's token counter reads, and the answer's own facts."""
        usage = answer.usage
        return {
            "model": self._name,
            "finish_reason": answer.finish_reason,
            "usage": {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
                "kept_tokens": usage.kept_tokens,
                **({"cached_tokens": usage.cached_tokens} if usage.cached_tokens else {}),
                **({"reasoning_tokens": usage.reasoning_tokens} if usage.reasoning_tokens else {}),
            },
            "homer": facts_of(answer, self._trace, citations_of(answer, self._text) if self._cite else None),
        }


class CallResponses(Responses[ChatResponse]):
    """Responses that hold calls apart from words: as ToolCallBlocks, and as OpenAI writes them in additional_kwargs."""

    def __init__(self, name: str, trace: bool, cite: bool = False) -> None:
        super().__init__(chat, name, trace, cite)
        self._reader = CallReader()
        self._calls: list[dict[str, Any]] = []

    def of_answer(self, answer: Answer) -> ChatResponse:
        """The response to an answer that is there."""
        self._thought = answer.reasoning
        for part in (*self._reader.feed(answer.text), *self._reader.flush()):
            self._take(part)
        self._text = self._text.strip()
        return self._ended(None, answer)

    def _pieces(self, piece: str) -> Iterator[ChatResponse]:
        for part in self._reader.feed(piece):
            yield self._response(self._take(part), None)

    def _rest(self) -> Iterator[ChatResponse]:
        for part in self._reader.flush():
            yield self._response(self._take(part), None)

    def _take(self, part: str | CallPiece) -> str:
        """Note a part; the words in it."""
        if isinstance(part, str):
            self._text += part
            return part
        if part.name is not None:
            self._calls.append({"id": new_call_id(), "name": part.name, "arguments": ""})
        self._calls[part.index]["arguments"] += part.arguments
        return ""

    def _facts(self, answer: Answer) -> dict[str, Any]:
        del self._calls[len(self._reader.calls) :]  # one that was cut is none
        return super()._facts(answer) | ({"finish_reason": "tool_calls"} if self._calls else {})

    def _response(self, delta: str | None, raw: dict[str, Any] | None) -> ChatResponse:
        if not self._calls:
            return super()._response(delta, raw)
        whole = len(self._reader.calls)
        blocks: list[Any] = _thinking(self._thought) + ([TextBlock(text=self._text)] if self._text else [])
        blocks += [_block(call, number < whole) for number, call in enumerate(self._calls)]
        calls = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in self._calls
        ]
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs={"tool_calls": calls})
        return ChatResponse(message=message, delta=delta, raw=raw)


def chat(
    text: str, delta: str | None, raw: dict[str, Any] | None, thought: str = "", news: str | None = None
) -> ChatResponse:
    """A response in words to messages; what is thought stands in a block before them, and what is new beside."""
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[*_thinking(thought), TextBlock(text=text)])
    more = {} if news is None else {"thinking_delta": news}
    return ChatResponse(message=message, delta=delta, raw=raw, additional_kwargs=more)


def completion(
    text: str, delta: str | None, raw: dict[str, Any] | None, thought: str = "", news: str | None = None
) -> CompletionResponse:
    """A response to a prompt; the same of thoughts."""
    more = ({"reasoning": thought} if thought else {}) | ({} if news is None else {"thinking_delta": news})
    return CompletionResponse(text=text, delta=delta, raw=raw, additional_kwargs=more)


def _thinking(thought: str) -> list[Any]:
    return [ThinkingBlock(content=thought)] if thought else []


def _block(call: dict[str, Any], whole: bool) -> ToolCallBlock:
    arguments = call["arguments"]
    return ToolCallBlock(
        tool_call_id=call["id"], tool_name=call["name"], tool_kwargs=json.loads(arguments) if whole else arguments
    )
