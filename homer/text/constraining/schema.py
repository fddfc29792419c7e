"""Schemas as users have them, as JSON schemas, and what a text is by them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from homer.base.arguments import shown
from homer.errors import GenerationError

_HOLD_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties")
_HOLD_VALUES = ("enum", "const", "default", "examples")  # which are no schemas, whatever they look like
_FORMATS = frozenset(  # that JSON Schema defines; others, as "password" or "int64", are notes that nothing checks
    "date-time date time duration email idn-email hostname idn-hostname ipv4 ipv6 uri uri-reference iri iri-reference "
    "uuid uri-template json-pointer relative-json-pointer regex".split()
)
_OPEN = ("additionalProperties", "patternProperties", "allOf", "$ref")


def schema_of(given: Any) -> dict[str, Any]:
    """The JSON schema of what pydantic knows; a mapping is one already.

    Raises:
        GenerationError: something else, or a class that has none.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if given is None or isinstance(given, str | bytes | int | float | list):
        raise GenerationError(f"schema={shown(given)} is no schema: give a class of pydantic, a TypedDict or a mapping")
    try:
        schema: dict[str, Any] = _adapter(given).json_schema()
    except GenerationError:
        raise
    except Exception as error:  # of pydantic's several kinds
        raise GenerationError(f"{shown(given)} has no JSON schema ({error}): give a mapping") from None
    return schema


def closed(schema: Any, of_all: bool = False) -> Any:
    """The schema with no room for properties that it does not name, unless it says what they are.

    Without, a model may write any further properties, since JSON schemas allow what they do not mention. What holds to
    the result holds to the schema. Parts of `allOf` stay as they are: each would forbid what the others name. A
    `format` that JSON Schema does not define is left out.
    """
    if isinstance(schema, list):
        return [closed(part, of_all) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "format" and isinstance(value, str) and value not in _FORMATS:
            continue
        if key in _HOLD_SCHEMAS and isinstance(value, Mapping):
            inner = of_all and key not in ("$defs", "definitions")
            made[key] = {name: closed(part, inner) for name, part in value.items()}
        else:
            made[key] = value if key in _HOLD_VALUES else closed(value, of_all or key == "allOf")
    if "properties" in schema and not of_all and not any(key in schema for key in _OPEN):
        made["additionalProperties"] = False
    return made


def parse(text: str, schema: Any) -> Any:
    """The value that a text says: of a class an instance, of a TypedDict or a mapping plain JSON values.

    Raises:
        GenerationError: no JSON, or what the class itself refuses beyond its schema.
    """
    try:
        return json.loads(text) if isinstance(schema, Mapping) else _adapter(schema).validate_json(text)
    except ValueError as error:  # pydantic's own among them
        raise GenerationError(
            f"the answer holds to the JSON schema, but is refused ({error}): say in the schema what is wanted"
        ) from None


def _adapter(given: Any) -> Any:
    try:
        from pydantic import TypeAdapter
    except ModuleNotFoundError:
        raise GenerationError("a schema that is no mapping needs the package pydantic: pip install pydantic") from None
    return TypeAdapter(given)
