"""Calls of tools and answers by a schema, as LangChain has them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import ToolCall, ToolCallChunk, tool_call, tool_call_chunk
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import is_basemodel_subclass

from homer import Answer, CallPiece, CallReader, GenerationError, Thought, TokenLogprob, read_calls
from homer_integrations.langchain.schemas import schema_of, tool_of
from homer_integrations.shared.conversation import REASONING
from homer_integrations.shared.jsons import is_json
from homer_integrations.shared.logprobs import Untold, chat_logprobs
from homer_integrations.shared.tools import new_call_id, read_choice

METHODS = ("json_schema", "function_calling", "json_mode")


class Chunks:
    """The pieces of an answer as chunks of a message; calls are read out of them where tools may be called."""

    def __init__(self, reads_calls: bool) -> None:
        self._reader = CallReader() if reads_calls else None
        self._ids: dict[int, str] = {}
        self._untold = Untold()

    def of(self, piece: str) -> Iterator[AIMessageChunk]:
        """What is certain with one more piece; the first chunk of it tells of the tokens that came since the last."""
        if isinstance(piece, Thought):
            yield AIMessageChunk(content="", additional_kwargs={REASONING: str(piece)})
            return
        self._untold.note(piece)
        for part in [piece] if self._reader is None else self._reader.feed(piece):
            chunk = AIMessageChunk(content=part) if isinstance(part, str) else self._chunk(part)
            chunk.response_metadata |= logprobs_of(self._untold.take() or None)
            yield chunk

    def rest(self) -> Iterator[AIMessageChunk]:
        """Words that were held back."""
        for part in () if self._reader is None else self._reader.flush():
            yield AIMessageChunk(content=part)

    def untold(self, answer: Answer) -> dict[str, Any]:
        """Metadata of the last chunk: what was not told yet of the answer's tokens, where it was asked for."""
        self._untold.rest(answer)
        return logprobs_of(self._untold.take() or None)

    @property
    def called(self) -> bool:
        """Whether a call is whole."""
        return self._reader is not None and bool(self._reader.calls)

    def _chunk(self, piece: CallPiece) -> AIMessageChunk:
        call_id = None if piece.name is None else self._ids.setdefault(piece.index, new_call_id())
        part: ToolCallChunk = tool_call_chunk(name=piece.name, args=piece.arguments, id=call_id, index=piece.index)
        return AIMessageChunk(content="", tool_call_chunks=[part])


def logprobs_of(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any]:
    """Log-probabilities as metadata; nothing where they were not asked for."""
    told = chat_logprobs(tokens)
    return {} if told is None else {"logprobs": told}


def words_and_calls(text: str) -> tuple[str, list[ToolCall]]:
    """The words of a whole answer, and its calls."""
    words, calls = read_calls(text)
    return words, [tool_call(name=c.name, args=json.loads(c.arguments), id=new_call_id()) for c in calls]


def tool_arguments(tools: Sequence[Any], tool_choice: Any, parallel: bool | None) -> dict[str, Any]:
    """The arguments of a call by which tools may be called.

    Raises:
        GenerationError: a choice that names none of them.
    """
    given = [tool_of(tool) for tool in tools]
    choice = read_choice(tool_choice)
    names = [tool["function"]["name"] for tool in given if "function" in tool]
    if choice not in ("auto", "none", "required", *names):
        raise GenerationError(f"tool_choice={choice!r} names none of the tools {', '.join(names)}: give one of them")
    several = {} if parallel is None else {"parallel_tool_calls": parallel}
    return {"tools": given, "tool_choice": choice} | several


def structured(model: Any, schema: Any, include_raw: bool, method: str, **arguments: Any) -> Runnable[Any, Any]:
    """The model with answers that hold to a schema, and are read; see ChatHomer.with_structured_output."""
    if method not in METHODS:
        raise GenerationError(f"method={method!r} is none of {', '.join(METHODS)}: give one of them")
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    parser: BaseOutputParser[Any]
    strict = arguments.pop("strict", None)
    noted = {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema_of(schema)}}
    noted |= arguments
    if method == "function_calling":
        tool = tool_of(schema)
        name = tool["function"]["name"]
        bound = model.bind_tools([tool], tool_choice=name, parallel_tool_calls=False, strict=strict, **noted)
        keyed = JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        parser = PydanticToolsParser(tools=[schema], first_tool_only=True) if is_class else keyed
    else:
        facts = schema_of(schema)
        form = {"type": "json_schema", "json_schema": {"name": facts.get("title") or "answer", "schema": facts}}
        bound = model.bind(response_format=form, **noted)
        parser = PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()
    if not include_raw:
        parsing: Runnable[Any, Any] = bound | RunnableGenerator(_whole, _whole_later) | parser
        return parsing
    read = RunnablePassthrough.assign(parsed=RunnableLambda(_raw) | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=bound) | read.with_fallbacks([failed], exception_key="parsing_error")


def _raw(given: dict[str, Any]) -> Any:
    _check_whole(given["raw"])
    return given["raw"]


def _whole(messages: Iterator[AIMessage]) -> Iterator[AIMessage]:
    """The message, or its chunks; an error at their end where it was cut: parsers take a part for the whole."""
    joined: Any = None
    for message in messages:
        joined = message if joined is None else joined + message
        yield message
    _check_whole(joined)


async def _whole_later(messages: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
    joined: Any = None
    async for message in messages:
        joined = message if joined is None else joined + message
        yield message
    _check_whole(joined)


def _check_whole(message: Any) -> None:
    """Raise OutputParserException for what max_tokens cut; what was closed in time is whole, as are calls."""
    if message is not None and message.response_metadata.get("finish_reason") == "length" and not is_json(message.text):
        tokens = (message.usage_metadata or {}).get("output_tokens")
        problem = f"the answer was cut after {tokens} tokens (finish_reason 'length'): raise max_tokens"
        raise OutputParserException(problem, llm_output=message.text)
