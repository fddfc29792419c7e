"""Messages in the one form that all roads of documents lead to, so that a cache of answers knows the same question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import tool_call

from homer_integrations.shared.conversation import REASONING, Asked, to_conversation
from homer_integrations.shared.marks import KEY, PLACE, make_mark

_TYPES: dict[str, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}


def as_asked(messages: Sequence[BaseMessage], arguments: Mapping[str, Any]) -> tuple[list[BaseMessage], dict[str, Any]]:
    """Messages of role and text alone, thoughts and calls included, and the arguments of a call, to the same effect.

    Documents that have a place in the messages stand there in full, marked; others are homer's, under `documents`.
    Ids, names, and what earlier answers told of themselves stay out: no answer depends on them.

    Raises:
        InputError: as in `to_conversation`.
    """
    others = {name: value for name, value in arguments.items() if name not in ("documents", "place")}
    asked = to_conversation(messages, arguments.get("documents"), arguments.get("place"))
    if asked.place is not None:
        written = _written(asked, asked.place)
        if written is not None:
            return written, others
        others["place"] = asked.place  # where it does not fit, the call says so
    if asked.documents:
        others["documents"] = asked.documents
    return [_plain(message) for message in asked.messages], others


def _written(asked: Asked, place: str) -> list[BaseMessage] | None:
    """The messages with the documents' text where their place is; None where it does not stand there once."""
    if sum(message["content"].count(place) for message in asked.messages) != 1:
        return None
    whole = "".join(document.render() for document in asked.documents)
    messages: list[BaseMessage] = []
    for message in asked.messages:
        text, extra = message["content"], dict[str, Any]()
        if place in text:
            before, _, after = text.partition(place)
            text = f"{before}{whole}{after}"
            if asked.documents:
                mark = make_mark(text, f"{before}{PLACE}{after}", asked.documents)
                if mark is None:
                    return None
                extra[KEY] = mark
        messages.append(_plain(message | {"content": text}, extra))
    return messages


def _plain(message: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> BaseMessage:
    """A message of role, text, thought and calls alone; which call a result is of does not change an answer."""
    text, more = message["content"], dict(extra or {})
    if message.get(REASONING):
        more[REASONING] = message[REASONING]
    if message["role"] == "tool":
        return ToolMessage(text, tool_call_id="", additional_kwargs=more)
    if message.get("tool_calls"):
        functions = [call["function"] for call in message["tool_calls"]]
        calls = [tool_call(name=f["name"], args=json.loads(f["arguments"]), id=None) for f in functions]
        return AIMessage(text, tool_calls=calls, additional_kwargs=more)
    return _TYPES[message["role"]](text, additional_kwargs=more)
