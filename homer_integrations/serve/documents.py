"""Messages and documents as OpenAI's clients send them, as homer's."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from homer import Document, InputError, decode_text
from homer_integrations.serve.lanes import Tick
from homer_integrations.serve.pdf import read_pdf
from homer_integrations.shared.conversation import REASONING
from homer_integrations.shared.documents import agreed, to_homer_document

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def to_conversation(
    messages: Sequence[Mapping[str, Any]], documents: Sequence[Any], tick: Tick = lambda: None
) -> tuple[tuple[dict[str, Any], ...], tuple[Document, ...]]:
    """Roles and texts, and the documents given beside the messages or as file parts in them.

    Args:
        tick: called now and then, since files take a while; what it raises ends the work.

    Raises:
        InputError: a role, a part or a file that this model cannot read, or documents by both roads that disagree.
    """
    conversation: list[dict[str, Any]] = []
    files: list[Document] = []
    for number, message in enumerate(messages, 1):
        texts, found = _content(message, number, tick)
        calls = {"tool_calls": message["tool_calls"]} if message.get("tool_calls") else {}
        thought = message.get(REASONING) or message.get("reasoning")
        said = {"role": _role(message, number), "content": "\n".join(texts)} | calls
        conversation.append(said | ({REASONING: thought} if thought else {}))
        files += found
    given = tuple(to_document(document, number) for number, document in enumerate(documents, 1))
    return tuple(conversation), agreed((("documents", given), ("the messages' files", tuple(files))))


def to_document(document: Any, number: int) -> Document:
    """A string, `{"title", "text"}`, or `{"id", "data"}` whose data is a text or a mapping with one.

    Of data with other fields, every field becomes a line, so that the model reads them all.
    """
    if not isinstance(document, Mapping):
        return to_homer_document(document, number)
    if "data" not in document:
        return to_homer_document(_checked(document, number), number)
    unknown = sorted(set(document) - {"id", "data"})
    if unknown:
        raise InputError(f"document {number} has a key {unknown[0]!r} beside 'data': put it into 'data'")
    data, title = document["data"], _title(document.get("id"), number)
    if isinstance(data, str):
        return Document(data, title)
    if not isinstance(data, Mapping) or not data:
        raise InputError(f"document {number} holds no text under 'data': give a string, or a mapping with 'text'")
    fields = {str(key): _plain(value) for key, value in data.items() if key != "title"}
    texts = [fields[key] for key in ("text", "snippet", "content") if key in fields]
    text = texts[0] if len(fields) == 1 == len(texts) else "\n".join(f"{key}: {fields[key]}" for key in fields)
    return Document(text, _title(data.get("title"), number) or title)


def _checked(document: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A document whose title and metadata are of the right kind."""
    metadata = document.get("metadata")
    if not (metadata is None or isinstance(metadata, Mapping)):
        raise InputError(f"document {number} has metadata of type {type(metadata).__name__}: give a mapping, or none")
    known = {name: value for name, value in (metadata or {}).items() if not _is_missing(value)}
    return dict(document) | {"title": _title(document.get("title"), number), "metadata": known}


def _title(value: Any, number: int) -> str | None:
    """A name as text; None where it is missing."""
    if _is_missing(value):
        return None
    if isinstance(value, list | Mapping):
        raise InputError(f"document {number} has a title of type {type(value).__name__}: give a string")
    return str(value)


def _is_missing(value: Any) -> bool:
    """Whether there is none, for which tables of data say NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _role(message: Mapping[str, Any], number: int) -> str:
    if message["role"] not in _ROLES:
        raise InputError(f"message {number} has the role {message['role']!r}: give one of {', '.join(_ROLES)}")
    return _ROLES[message["role"]]


def _content(message: Mapping[str, Any], number: int, tick: Tick) -> tuple[list[str], list[Document]]:
    """Texts and documents of a message."""
    content = message.get("content")
    texts: list[str] = []
    documents: list[Document] = []
    parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    for part in parts:
        kind = part.get("type")
        if kind in ("text", "input_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "file" and isinstance(part.get("file"), Mapping):
            tick()
            documents.append(_read_file(part["file"], number, tick))
        else:
            raise InputError(
                f"message {number} holds a part of type {kind!r}: this model reads parts of type 'text', and 'file' "
                f"with 'filename' and 'file_data'"
            )
    return texts, documents


def _read_file(file: Mapping[str, Any], number: int, tick: Tick) -> Document:
    """A file given as a data URL: text of any kind, or a PDF where pypdf is installed."""
    name, url = str(file.get("filename") or "file"), file.get("file_data")
    if not isinstance(url, str) or not url.startswith("data:") or "," not in url:
        raise InputError(
            f"{name!r} in message {number} has no 'file_data' like 'data:text/plain;base64,...': this server keeps no "
            f"files, so 'file_id' cannot be read"
        )
    header, data = url[5:].split(",", 1)
    kind, *details = header.split(";")
    if "base64" not in details:
        raise InputError(f"the data of {name!r} in message {number} is not marked as base64: encode it so")
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError as error:  # also of characters that are no ASCII
        raise InputError(f"the data of {name!r} in message {number} is no base64 ({error}): encode it again") from None
    charset = next((detail[8:] for detail in details if detail.startswith("charset=")), "utf-8")
    return Document(_text_of(name, kind, content, charset, tick), name)


def _text_of(name: str, kind: str, content: bytes, charset: str, tick: Tick) -> str:
    pdf = kind == "application/pdf" or content.startswith(b"%PDF-")
    if not (pdf or kind.startswith("text/") or kind in ("", "application/json")):
        raise InputError(f"{name!r} is of type {kind!r}: send text/plain, or any text/..., JSON or PDF")
    if pdf:
        return read_pdf(name, content, tick)
    return decode_text(repr(name), content, charset)
