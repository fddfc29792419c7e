"""Tools and schemas as LangChain converts them, but whole: of classes that hold themselves it keeps the first round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.tools import BaseTool, create_schema_from_function
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel

_NAMES = ("title", "name", "function")  # by which LangChain knows a mapping; a schema may have none of them


def tool_of(tool: Any) -> dict[str, Any]:
    """A tool, a class or a function as OpenAI writes tools."""
    made = convert_to_openai_tool(_named(tool))
    own = _own_schema(tool)
    if own is None or not _holds_itself(own):
        return made
    parameters = {name: part for name, part in own.items() if name not in ("title", "description")}
    return made | {"function": made["function"] | {"parameters": parameters}}


def schema_of(schema: Any) -> dict[str, Any]:
    """The JSON schema of a class, a TypedDict or a mapping, with a title."""
    own = _own_schema(schema)
    if own is not None and _holds_itself(own):
        return {"title": schema.__name__} | own
    made: dict[str, Any] = convert_to_json_schema(_named(schema))
    return made


def _named(given: Any) -> Any:
    """A schema without a name gets one."""
    named = not isinstance(given, Mapping) or any(name in given for name in _NAMES) or "type" not in given
    return given if named or given["type"] != "object" else {"title": "answer"} | dict(given)


def _own_schema(given: Any) -> dict[str, Any] | None:
    """What pydantic says of it; None where it is none of pydantic's."""
    if isinstance(given, BaseTool):
        given = given.tool_call_schema
    elif callable(given) and not isinstance(given, type):
        given = create_schema_from_function(given.__name__, given)
    if isinstance(given, type) and issubclass(given, BaseModel):
        return given.model_json_schema()
    return None


def _holds_itself(schema: Mapping[str, Any]) -> bool:
    """Whether a definition refers to itself, by whatever way."""
    names = {name: set(_references(part)) for name, part in schema.get("$defs", {}).items()}
    for name in names:
        waiting, seen = set(names[name]), set[str]()
        while waiting:
            seen |= waiting
            waiting = {other for known in waiting for other in names.get(known, ())} - seen
        if name in seen:
            return True
    return False


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"].rpartition("/")[2]
        part = list(part.values())
    for inner in part if isinstance(part, list) else ():
        yield from _references(inner)
