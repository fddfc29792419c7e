"""Arguments as quotations: for a model that finds what it is asked for, and was not taught to say it otherwise."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from homer.text.constraining.calls import Tool

_QUOTED = re.compile(r"\"([^\"]+)\"|(?<!\w)'([^']+)'(?!\w)|[“„«]([^“”»]+)[”“»]")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WORDS, _RUN = 60, 6  # of a longer message no quotations are listed; words in a row
_SHAPES = ("enum", "const", "pattern", "format", "minLength", "maxLength", "multipleOf")


def quoting(tools: Sequence[Tool], message: str) -> list[Tool]:
    """The tools with arguments that stand in a message: texts as runs of its words, numbers as they are.

    What the message puts between quotation marks goes before all else. An argument whose schema says more of its form
    than its kind and its bounds stays free, and so do all where the message is long.
    """
    if len(message.split()) > _WORDS:
        return list(tools)
    return [dataclasses.replace(tool, parameters=_quoting(json.loads(tool.parameters), message)) for tool in tools]


def _quoting(schema: dict[str, Any], message: str) -> str:
    properties = schema.get("properties") or {}
    made = {name: _one(facts, message) for name, facts in properties.items()}
    return json.dumps(schema | ({"properties": made} if made else {}))


def _one(facts: Any, message: str) -> Any:
    if not isinstance(facts, dict) or any(shape in facts for shape in _SHAPES):
        return facts
    kind = facts.get("type")
    if kind == "string":
        found: list[Any] = _texts(message)
    elif kind in ("integer", "number"):
        found = [number for number in _numbers(message, kind) if _within(number, facts)]
    else:
        return facts
    return {"enum": found} if found else facts


def _texts(message: str) -> list[str]:
    marked = ["".join(groups) for groups in _QUOTED.findall(message)]
    if marked:
        return list(dict.fromkeys(marked))
    words = [word.strip("\"'.,;:!?()") for word in message.split()]
    runs = (words[n : n + length] for n in range(len(words)) for length in range(1, _RUN + 1))
    return list(dict.fromkeys(text for run in runs if (text := " ".join(run).strip())))


def _numbers(message: str, kind: str) -> list[int | float]:
    found = _NUMBER.findall(message)
    if kind == "integer":
        return list(dict.fromkeys(int(number) for number in found if "." not in number))
    return list(dict.fromkeys(float(number) if "." in number else int(number) for number in found))


def _within(number: float, facts: dict[str, Any]) -> bool:
    least, most = facts.get("minimum", number), facts.get("maximum", number)
    above, below = facts.get("exclusiveMinimum", number - 1), facts.get("exclusiveMaximum", number + 1)
    return bool(least <= number <= most and above < number < below)
