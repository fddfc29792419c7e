"""What a call wants of its answer beside words: calls of tools, JSON; as OpenAI's endpoints and frameworks say it."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from homer import GenerationError, HomerModel, Turn

NAMES = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
_REQUIRED = ("any", "required", True)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Tools that may be called, and a schema that words must hold to.

    Attributes:
        choice: "auto", "none", "required", or the name of a tool.
        parallel: whether several calls may come; None leaves it to the model.
        schema: a JSON schema, or None.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    choice: str = "auto"
    parallel: bool | None = None
    schema: Mapping[str, Any] | None = None

    @property
    def calls(self) -> bool:
        """Whether tools may be called."""
        return bool(self.tools) and self.choice != "none"

    def turn(self, model: HomerModel, messages: Sequence[Mapping[str, Any]]) -> Turn:
        """The conversation in words, and the grammar of its next answer. Raises GenerationError on what cannot be."""
        return model.turn(
            messages, tools=self.tools, tool_choice=self.choice, parallel=self.parallel, schema=self.schema
        )

    def facts(self) -> dict[str, Any]:
        """What an answer depends on, as JSON values; nothing where nothing is wanted."""
        return {} if self == Wanted() else {"wanted": dataclasses.asdict(self)}


def take_wanted(arguments: MutableMapping[str, Any]) -> Wanted:
    """What the arguments of a call want, which are taken out of them.

    Raises:
        GenerationError: a tool_choice or a response_format that is none.
    """
    tools, choice, parallel, form = (arguments.pop(name, None) for name in NAMES)
    if parallel is not None and not isinstance(parallel, bool):
        raise GenerationError(f"parallel_tool_calls={parallel!r} is no bool: give True or False")
    wanted = Wanted(tuple(tools or ()), read_choice(choice), parallel, read_form(form))
    if not wanted.tools and wanted.choice not in ("auto", "none"):
        raise GenerationError(f"tool_choice={choice!r} but no tools: give tools, or leave it out")
    return wanted


def wants_calls(arguments: Mapping[str, Any]) -> bool:
    """Whether by the arguments of a call tools may be called; nothing is taken out of them."""
    return take_wanted(dict(arguments)).calls


def read_choice(given: Any) -> str:
    """A tool_choice of any dialect as one word. Raises GenerationError on what is none."""
    if given is None or given is False:
        return "auto" if given is None else "none"
    if isinstance(given, Mapping):
        function = given.get("function", given)
        given = function.get("name") if isinstance(function, Mapping) and "name" in function else given.get("type")
    if given in _REQUIRED:
        return "required"
    if not isinstance(given, str) or not given:
        raise GenerationError(f"tool_choice={given!r} is none: give 'auto', 'none', 'required' or a tool's name")
    return given


def read_form(given: Any) -> Mapping[str, Any] | None:
    """The schema that a response_format asks for. Raises GenerationError on what is none."""
    kind = given.get("type") if isinstance(given, Mapping) else given
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return {"type": "object"}
    inner = given.get("json_schema") if isinstance(given, Mapping) else None
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise GenerationError(
            f"response_format of type {kind!r} is none that can be held to: give 'text', 'json_object', or "
            f"'json_schema' with 'json_schema': {{'name': ..., 'schema': ...}}"
        )
    return schema


def new_call_id() -> str:
    """An id that no other call has."""
    return f"call_{secrets.token_hex(12)}"
