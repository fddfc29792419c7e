"""Documents that a chat page wrote into a message, each in a `<source>` tag, as documents; the text stays the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from homer import Document
from homer_integrations.shared.marks import PLACE

_OPENING = re.compile(r'<source id="[^"<>\n]*"(?: name="([^"<>\n]*)")?[^<>\n]*>')
_CLOSING = "</source>"
_SPACE = re.compile(r"\s*")
Messages = tuple[dict[str, Any], ...]


def with_tagged(
    messages: Messages, documents: tuple[Document, ...]
) -> tuple[Messages, tuple[Document, ...], str | None]:
    """Messages, documents, and the text in the messages where the documents belong.

    Open WebUI writes what it found into the last user's message, or the system's, as
    `<source id="1" name="a.pdf">...</source>`, one a line. Of the last message with such lines they are taken as
    documents, where no others are given, and where every tag of it is part of one run of them. The model reads the
    very same prompt; but documents have names, keep their states for other questions, and can be cited.
    """
    for number in () if documents else reversed(range(len(messages))):
        found = _read(messages[number]["content"]) if messages[number]["role"] in ("user", "system") else None
        if found is not None:
            changed: Mapping[str, Any] = {**messages[number], "content": found[0]}
            return (*messages[:number], dict(changed), *messages[number + 1 :]), found[1], PLACE
    return messages, documents, None


def _read(text: str) -> tuple[str, tuple[Document, ...]] | None:
    """The text with PLACE for the run of its sources, and these; None where there is not exactly one run."""
    first = _OPENING.search(text)
    if first is None:
        return None
    found, stop = list[Document](), first.start()
    while opening := _OPENING.match(text, stop):
        end = text.find(_CLOSING, opening.end())
        if end < 0:
            return None
        stop = _SPACE.match(text, end + len(_CLOSING)).end()  # type: ignore[union-attr]
        found.append(Document(text[opening.end() : end], opening[1] or None, opening[0], text[end:stop]))
    rest = text[: first.start()] + text[stop:]
    inside = any("<source" in document.text for document in found)
    if inside or _CLOSING in rest or _OPENING.search(rest) or all(document.blank for document in found):
        return None
    return f"{text[: first.start()]}{PLACE}{text[stop:]}", tuple(found)
