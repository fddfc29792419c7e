"""A pipeline's messages as a conversation for homer, and the documents they carry."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from homer import Document, InputError
from homer_integrations.shared.documents import agreed, to_homer_document, to_homer_documents
from homer_integrations.shared.marks import PLACE, mark_of, read_mark

_CALLS = ("tool_use", "tool_call", "tool_call_chunk", "function_call")  # which the message itself holds too
_THOUGHTS = {"reasoning": "reasoning", "thinking": "thinking"}  # blocks, and where their text stands
REASONING = "reasoning_content"  # of an assistant's message: what it thought before
_ROLES = {
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A conversation, the documents to answer from, and the text in it where they belong, if it names one."""

    messages: list[dict[str, Any]]
    documents: tuple[Document, ...]
    place: str | None


def to_conversation(messages: Sequence[Any], documents: Any = None, place: str | None = None) -> Asked:
    """Roles and texts of messages, and the documents given with them.

    Args:
        messages: objects with `type`, `content` and `additional_kwargs`; the content is a string or a list of blocks.
        documents: those given by keyword; they may also stand in the messages, as blocks of type text-plain, under
            "documents" in additional_kwargs, or in the text itself, where a mark says where.
        place: the text in the messages where documents belong.

    Raises:
        InputError: a role or a content block that this model cannot take, or documents that disagree.
    """
    conversation: list[dict[str, Any]] = []
    blocks: list[Document] = []
    extras: list[Document] = []
    for number, message in enumerate(messages, 1):
        texts, found = _parts(message, number)
        said = {"role": _role(message, number), "content": "\n".join(texts)}
        conversation.append(said | _calls(message) | _thought(message))
        blocks += found
        extras += to_homer_documents(message.additional_kwargs.get("documents"))
    roads = (
        ("documents=", to_homer_documents(documents)),
        ("the messages' content", tuple(blocks)),
        ("additional_kwargs", tuple(extras)),
    )
    return asked(messages, conversation, roads, place)


def asked(
    messages: Sequence[Any],
    conversation: list[dict[str, Any]],
    roads: Sequence[tuple[str, tuple[Document, ...]]],
    place: str | None,
) -> Asked:
    """Roles and texts of messages, and documents by all roads, those that are marked in the text among them.

    Raises:
        InputError: documents that disagree, or that have two places.
    """
    written = _take_written(messages, conversation)
    if written and place is not None:
        raise InputError(
            f"the messages say where their {len(written)} documents stand, and place= names another: leave it out"
        )
    return Asked(conversation, agreed((*roads, ("the prompt", written))), PLACE if written else place)


def _take_written(messages: Sequence[Any], conversation: list[dict[str, Any]]) -> tuple[Document, ...]:
    """The documents in the text of the last message that is marked, which gets PLACE for them."""
    for message, plain in zip(reversed(messages), reversed(conversation), strict=True):
        mark = mark_of(message)
        found = None if mark is None else read_mark(plain["content"], mark)
        if found is not None:
            plain["content"] = found[0]
            return found[1]
    return ()


def _role(message: Any, number: int) -> str:
    name = message.role if message.type == "chat" else message.type
    if name not in _ROLES:
        raise InputError(
            f"message {number} has the role {name!r}: give one of {', '.join(sorted(set(_ROLES.values())))}"
        )
    return _ROLES[name]


def _calls(message: Any) -> dict[str, Any]:
    """The calls of a message, as OpenAI writes them."""
    calls = getattr(message, "tool_calls", None) if message.type == "ai" else None
    made = [
        {"function": {"name": call["name"], "arguments": json.dumps(call["args"], ensure_ascii=False)}}
        for call in calls or ()
    ]
    return {"tool_calls": made} if made else {}


def _thought(message: Any) -> dict[str, str]:
    """What the model thought before an earlier answer, from the message's blocks or beside them."""
    if message.type not in ("ai", "assistant"):
        return {}
    blocks = [block for block in message.content if isinstance(block, dict)]
    found = [block.get(_THOUGHTS[block["type"]]) for block in blocks if block.get("type") in _THOUGHTS]
    texts = [text for text in found or [message.additional_kwargs.get(REASONING)] if isinstance(text, str)]
    return {REASONING: "\n".join(texts)} if any(texts) else {}


def _parts(message: Any, number: int) -> tuple[list[str], list[Document]]:
    """Texts and documents of a message."""
    content = [message.content] if isinstance(message.content, str) else message.content
    texts: list[str] = []
    documents: list[Document] = []
    for block in content:
        if isinstance(block, str):
            texts.append(block)
        elif block.get("type") == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif block.get("type") == "text-plain" and isinstance(block.get("text"), str):
            given = {"text": block["text"]} | ({"title": block["title"]} if block.get("title") else {})
            documents.append(to_homer_document(given, len(documents) + 1))
        elif _is_apart(block, message):
            continue
        else:
            raise InputError(_refusal(block, number))
    return texts, documents


def _is_apart(block: Any, message: Any) -> bool:
    """Whether a block is a call or a thought of an assistant's, which are read elsewhere."""
    if block.get("type") in _THOUGHTS:
        return message.type in ("ai", "assistant")
    return block.get("type") in _CALLS and bool(getattr(message, "tool_calls", None))


def _refusal(block: Any, number: int) -> str:
    kind = block.get("type")
    held = ", ".join(_names(block))
    return (
        f"message {number} holds a block of type {kind!r} with {held or 'nothing'}: this model reads text only; give "
        f"blocks of type 'text', or 'text-plain' with 'text' and maybe 'title' for documents"
    )


def _names(block: Any) -> Iterable[str]:
    return (str(name) for name in block if name != "type")
