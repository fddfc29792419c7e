"""Compressed: what was left of documents as text, and where it stood in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from homer.text.documents import Document
from homer.text.units import Unit
from homer.view.sources import Usage

Spans = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Compressed:
    """Shorter documents, in the order of those given; a document of which nothing stayed is not among them.

    Attributes:
        documents: text and title each; `HomerModel.ask` and any other model take them.
        indices: for each of them its number among the documents given, from 0.
        spans: for each of them the (start, end) characters of the given text that it holds.
        scores: for each document given, its share of all their scores, 0 to 1; only those of one call compare.
        usage: tokens of the texts given and of those handed out, markers included, titles not.
    """

    documents: tuple[Document, ...]
    indices: tuple[int, ...]
    spans: tuple[Spans, ...]
    scores: tuple[float, ...]
    usage: Usage

    @property
    def ranking(self) -> tuple[int, ...]:
        """Indices of all documents given, the best one first."""
        return tuple(sorted(range(len(self.scores)), key=lambda index: (-self.scores[index], index)))

    @property
    def text(self) -> str:
        """All of it, a title on a line before its document, documents apart by a blank line."""
        parts = (
            f"{document.title}\n{document.text}" if document.title else document.text for document in self.documents
        )
        return "\n\n".join(parts)


def assemble(text: str, units: Sequence[Unit], kept: Sequence[int], marker: str) -> tuple[str, Spans]:
    """What is left of a text where some of its units stay, and the spans of the text that this holds.

    Args:
        kept: numbers of units, in order, at least one.
        marker: stands where something was left out, with the white space that was around it.
    """
    stretches = _stretches(kept)
    parts = [_gap(text, units, None, stretches[0][0], marker)]
    for number, (first, last) in enumerate(stretches):
        following = stretches[number + 1][0] if number + 1 < len(stretches) else None
        parts += [text[units[first].start : units[last].end], _gap(text, units, last, following, marker)]
    return "".join(parts), tuple((units[first].start, units[last].end) for first, last in stretches)


def _stretches(kept: Sequence[int]) -> list[tuple[int, int]]:
    """(first, last) of every stretch of numbers in a row."""
    found: list[tuple[int, int]] = []
    for number in kept:
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


def _gap(text: str, units: Sequence[Unit], last: int | None, following: int | None, marker: str) -> str:
    """What stands between two units that stay, `last` and `following`; None is an end of the text."""
    first_out = 0 if last is None else last + 1
    end_out = len(units) if following is None else following
    if first_out >= end_out:
        return ""
    before = "" if last is None else text[units[last].end : units[last + 1].start]
    behind = "" if following is None else text[units[following - 1].end : units[following].start]
    if not marker:
        inside = last is not None and following is not None
        return max(before, behind, key=lambda space: (space.count("\n"), len(space))) if inside else ""
    if last is not None and units[first_out].kind == "row" and text[units[last].start : units[last].end].count("|"):
        marker = f"| {marker} |"  # a row of its own, so that the table stays one
    return f"{before}{marker}{behind}"
