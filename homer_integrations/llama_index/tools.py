"""LlamaIndex's tools as OpenAI writes them, the calls in its messages, and objects by a schema."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.utils import parse_partial_json
from llama_index.core.tools import BaseTool
from pydantic import BaseModel, ValidationError

from homer import GenerationError, InputError
from homer_integrations.shared.tools import read_choice

ModelT = TypeVar("ModelT", bound=BaseModel)


def tool_arguments(tools: Sequence[BaseTool], tool_choice: Any, required: bool, parallel: bool) -> dict[str, Any]:
    """The arguments of a call by which tools may be called.

    Raises:
        GenerationError: a choice that names none of them, or one against `required`.
    """
    given = [_tool(tool) for tool in tools]
    choice = read_choice(tool_choice)
    names = [tool["function"]["name"] for tool in given]
    if choice not in ("auto", "none", "required", *names):
        raise GenerationError(f"tool_choice={choice!r} names none of the tools {', '.join(names)}: give one of them")
    if required and choice == "none":
        raise GenerationError("tool_required=True but tool_choice='none': leave one of them out")
    if required and not given:
        raise GenerationError("tool_required=True but 0 tools: give at least one")
    if required and choice == "auto":
        choice = "required"
    return {"tools": given, "tool_choice": choice, "parallel_tool_calls": parallel} if given else {}


def selections_of(message: ChatMessage) -> list[ToolSelection]:
    """The calls in a message; of one that is still coming, the arguments so far."""
    return [
        ToolSelection(tool_id=block.tool_call_id or "", tool_name=block.tool_name, tool_kwargs=_arguments(block))
        for block in message.blocks
        if isinstance(block, ToolCallBlock)
    ]


def written_calls(message: ChatMessage, number: int) -> list[dict[str, Any]]:
    """The calls of a message of the history, as OpenAI writes them.

    Raises:
        InputError: calls that are none.
    """
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if blocks:
        return [_written(block.tool_name, block.tool_kwargs) for block in blocks]
    given = message.additional_kwargs.get("tool_calls") or ()
    return [_written_plain(call, number) for call in given]


def object_of(response: ChatResponse, output_cls: type[ModelT]) -> ModelT:
    """The object that an answer by a schema says.

    Raises:
        GenerationError: an answer that was cut, or what validators of the class refuse beyond its schema.
    """
    try:  # one whose room ended may be whole nevertheless: its last tokens close it
        return output_cls.model_validate_json(response.message.content or "")
    except ValidationError as error:
        reason = (response.raw or {}).get("finish_reason")
        mend = "say in the schema what is wanted" if reason == "stop" else "raise max_tokens"
        raise GenerationError(f"no {output_cls.__name__} came (finish_reason {reason!r}; {error}): {mend}") from None


def whole(objects: Iterator[Any], output_cls: type[BaseModel]) -> Generator[Any, None, None]:
    """Objects as they grow; the last one is an object of the class.

    Raises:
        GenerationError: at their end, where max_tokens cut it.
    """
    last: Any = None
    for last in objects:
        yield last
    _check_whole(last, output_cls)


async def whole_later(objects: AsyncIterator[Any], output_cls: type[BaseModel]) -> AsyncGenerator[Any, None]:
    """As `whole`."""
    last: Any = None
    async for last in objects:
        yield last
    _check_whole(last, output_cls)


def _check_whole(last: Any, output_cls: type[BaseModel]) -> None:
    if not all(isinstance(made, output_cls) for made in (last if isinstance(last, list) else [last])):
        raise GenerationError(f"no whole {output_cls.__name__} came, since the answer was cut: raise max_tokens")


def form_of(output_cls: type[BaseModel] | Mapping[str, Any]) -> dict[str, Any]:
    """The response_format that asks for an object of a class, or for JSON by a schema."""
    schema = output_cls if isinstance(output_cls, Mapping) else output_cls.model_json_schema()
    return {"type": "json_schema", "json_schema": {"name": schema.get("title") or "answer", "schema": schema}}


def _tool(tool: BaseTool) -> dict[str, Any]:
    """By its own name, which LlamaIndex finds it by; a name that no call can have is refused where all are read."""
    facts = tool.metadata
    if facts.fn_schema is not None and "$ref" in facts.fn_schema.model_json_schema():
        raise GenerationError(
            f"{facts.name!r} takes a class that holds itself, of which LlamaIndex hands no properties on: give another "
            f"class, with that one as a field"
        )
    function = {"name": facts.name, "description": facts.description, "parameters": facts.get_parameters_dict()}
    return {"type": "function", "function": function}


def _arguments(block: ToolCallBlock) -> dict[str, Any]:
    if isinstance(block.tool_kwargs, dict):
        return block.tool_kwargs
    try:
        return dict(parse_partial_json(block.tool_kwargs))
    except (ValueError, TypeError):  # nothing that could be closed yet
        return {}


def _written(name: str, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"function": {"name": name, "arguments": text}}


def _written_plain(call: Any, number: int) -> dict[str, Any]:
    plain = call.model_dump() if isinstance(call, BaseModel) else call
    function = plain.get("function") if isinstance(plain, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(
            f"message {number} has a tool call of type {type(call).__name__}: give ToolCallBlocks, or 'function' with "
            f"'name' and 'arguments'"
        )
    return _written(function["name"], function.get("arguments") or "{}")
