"""What each sentence of an answer rests on, as every wrapper tells it."""

from __future__ import annotations

import dataclasses
from typing import Any

from homer import Answer, Citation, Cited


def spoken(answer: Answer, words: str | None = None) -> list[Citation]:
    """The citations of the sentences of `words`, which is the answer's text, or as much of it as calls no tool."""
    if words is None or words == answer.text:
        return list(answer.citations)
    inside = answer.text.startswith(words)
    return [citation for citation in answer.citations if inside and citation.end <= len(words)]


def pairs(answer: Answer, words: str | None = None) -> list[tuple[Citation, Cited]]:
    """Each sentence with each part that it rests on: a flat list, as most interfaces have it."""
    return [(citation, part) for citation in spoken(answer, words) for part in citation.cited]


def citations_of(answer: Answer, words: str | None = None) -> list[dict[str, Any]]:
    """For each sentence its characters in the answer, its text, and the parts of documents; plain JSON values."""
    return [
        {
            "start": citation.start,
            "end": citation.end,
            "text": answer.text[citation.start : citation.end],
            "cited": [dataclasses.asdict(part) for part in citation.cited],
        }
        for citation in spoken(answer, words)
    ]


def within(citations: list[Any], count: int) -> list[Any]:
    """Citations of the first `count` documents alone: of a prompt without any, or of earlier turns, none was given.

    What another model tells in a form of its own stays as it is.
    """
    kept = [_within(one, count) if isinstance(one, dict) and "cited" in one else one for one in citations]
    return [one for one in kept if one]


def _within(citation: dict[str, Any], count: int) -> dict[str, Any]:
    parts = [part for part in citation["cited"] if part["index"] < count]
    return citation | {"cited": parts} if parts else {}
