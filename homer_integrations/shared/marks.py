"""Marks: where in a prompt's real text its documents stand, so that a model of ours finds them and others just read.

A prompt is filled twice, with the text of the documents and with PLACE; the two tell where that text stands.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from homer import Document

KEY = "homer_documents"  # of a message's additional_kwargs
PLACE = f"homer-{secrets.token_hex(16)}"  # no input can hold it, and no key, trace or other model sees it


class MarkedText(str):
    """A prompt that is a string, and knows where its documents stand."""

    mark: dict[str, Any] | None

    def __new__(cls, text: str, mark: dict[str, Any] | None = None) -> MarkedText:
        """A text; `mark` says where in it its documents stand."""
        new = super().__new__(cls, text)
        new.mark = mark
        return new


def make_mark(real: str, cut: str, documents: Sequence[Document]) -> dict[str, Any] | None:
    """Where documents stand in `real`, which is `cut` with their text at PLACE; JSON values.

    A template may have changed the text on its way, as a filter does: then what came of it is one document.
    None without documents, or where the two do not fit: `real` is then a prompt like any other.
    """
    before, _, after = cut.partition(PLACE)
    start, end = len(before), len(real) - len(after)
    if not documents or start > end or not (real.startswith(before) and real.endswith(after)):
        return None
    if real[start:end] == "".join(document.render() for document in documents):
        places = list(_places(documents, start))
    else:
        places = [[start, start, end, end, None]]
    return {"places": places, "sha256": _digest(real)}


def read_mark(text: str, mark: Any) -> tuple[str, tuple[Document, ...]] | None:
    """The text with PLACE where the documents stood, and these; None where it is not the text that was marked."""
    try:
        if mark["sha256"] != _digest(text):
            return None
        places = mark["places"]
        if any(place[3] != following[0] for place, following in itertools.pairwise(places)):
            return None  # what stands between would be lost
        documents = tuple(_document(text, *place) for place in places)
        return f"{text[: places[0][0]]}{PLACE}{text[places[-1][3] :]}", documents
    except (KeyError, TypeError, ValueError, IndexError):  # from outside, and none of ours
        return None


def mark_of(message: Any) -> Mapping[str, Any] | None:
    """The mark that a message carries, if any."""
    mark = message.additional_kwargs.get(KEY)
    return mark if isinstance(mark, Mapping) else None


def _places(documents: Sequence[Document], start: int) -> Any:
    """[start, start of the text, end of the text, end, title], and maybe the score, of every document."""
    for document in documents:
        text_start = start + len(document.header)
        text_end = text_start + len(document.text)
        scored = [] if document.score is None else [float(document.score)]
        yield [start, text_start, text_end, text_end + len(document.after), document.title, *scored]
        start = text_end + len(document.after)


def _document(
    text: str, start: int, text_start: int, text_end: int, end: int, title: str | None, score: float | None = None
) -> Document:
    if title is not None and not isinstance(title, str):
        raise TypeError("a title is a string")
    if score is not None and not isinstance(score, float):
        raise TypeError("a score is a number")
    return Document(text[text_start:text_end], title, text[start:text_start], text[text_end:end], score=score)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
