"""Units: what of a text stays or goes as a whole: sentences, rows of a table, list items, headings, blocks of code."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

Kind = Literal["sentence", "line", "heading", "item", "header", "row", "code"]

LONGEST = 1000  # characters; what has no end is cut there, at white space, so that it cannot take all of a budget
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_FENCE = re.compile(r"[ \t]{0,3}(```+|~~~+)")
_HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t]")
_ITEM = re.compile(r"[ \t]*(?:[-*+\u2022]|\d{1,3}[.)]|[a-zA-Z]\))[ \t]+\S")
_RULE = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
_END = re.compile(r"([.!?\u2026]+)[\"'\u201d\u2019)\]*_]*(?=\s)|[\u3002\uff01\uff1f][\u300d\u300f\u201d\uff09]*")
_SHORT = re.compile(
    r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|cf|e\.g|i\.e|etc|al|No|Nos|Fig|Vol|Gen|Col|Capt|Lt|Sgt|Rev|Hon|ca|approx))$"
)
_SEPARATORS = re.compile(r"\t|;|,(?! )")
_WRAPPED = 50  # characters of a line, from which on it may have been broken for its length


class Unit(NamedTuple):
    """A part of a text that stays or goes as a whole.

    Attributes:
        start, end: its characters, without white space around it.
        kind: what it is.
        passage: the number of the block it is in: what stands between blank lines.
        header: of a row of a table, the number of the unit that heads it; of all else None.
    """

    start: int
    end: int
    kind: Kind
    passage: int
    header: int | None = None


@dataclasses.dataclass(frozen=True)
class _Line:
    start: int
    end: int  # without white space and the break at its end
    text: str

    @property
    def plain(self) -> bool:
        """Whether it begins nothing of a kind of its own."""
        return not (_FENCE.match(self.text) or _HEADING.match(self.text) or _ITEM.match(self.text))


def split_units(text: str) -> list[Unit]:
    """The units of a text, in order; white space between them belongs to none.

    Sentences end with a full stop that white space follows, unless an abbreviation or an initial does it; lines end
    them, unless they were broken for their length. A row of a table (Markdown's, or of values between tabs, commas or
    semicolons) knows its header; a list item is whole, and so is a block of code between fences.
    """
    units: list[Unit] = []
    for passage, lines in enumerate(_passages(_lines(text))):
        while lines:
            count, found = _next(text, lines, passage, len(units))
            units += found
            lines = lines[count:]
    return units


def _lines(text: str) -> list[_Line]:
    found = (match.span() for match in _LINE.finditer(text))
    return [_Line(a, a + len(text[a:b].rstrip()), text[a:b].rstrip()) for a, b in found if b > a]


def _passages(lines: Sequence[_Line]) -> Iterator[list[_Line]]:
    """Lines between blank ones; fences hold theirs together, and a heading what stands below it."""
    passage: list[_Line] = []
    fence = ""
    for line in lines:
        mark = _FENCE.match(line.text)
        if mark:
            fence = "" if fence and line.text.strip().startswith(fence) else fence or mark[1]
        if line.text or fence:
            passage.append(line)
        elif passage and not _HEADING.match(passage[-1].text):
            yield passage
            passage = []
    if passage:
        yield passage


def _next(text: str, lines: Sequence[_Line], passage: int, number: int) -> tuple[int, list[Unit]]:
    """How many lines what comes first takes, and its units, the first of which has a number."""
    first = lines[0]
    mark = _FENCE.match(first.text)
    if mark:
        closing = (i for i, line in enumerate(lines[1:], 2) if line.text.strip().startswith(mark[1]))
        count = next(closing, len(lines))
        end = max(line.end for line in lines[:count])
        return count, [Unit(_begin(first), end, "code", passage)]
    if _HEADING.match(first.text):
        return 1, [Unit(_begin(first), first.end, "heading", passage)]
    rows, head = _table(lines)
    if rows:
        header = Unit(_begin(first), lines[head - 1].end, "header", passage)
        units = [Unit(_begin(line), line.end, "row", passage, number) for line in lines[head:rows]]
        return rows, [header, *units]
    if _ITEM.match(first.text):
        count = 1 + _while_plain(lines[1:])
        return count, [Unit(a, b, "item", passage) for a, b in _cut(text, _begin(first), lines[count - 1].end)]
    count = max(1, _while_plain(lines))
    return count, list(_prose(text, lines[:count], passage))


def _begin(line: _Line) -> int:
    return line.end - len(line.text.lstrip())


def _while_plain(lines: Sequence[_Line]) -> int:
    """How many lines go on what stands before them: none that begins a table or another kind."""
    goes_on = (line.plain and not (number and _table(lines[number:])[0]) for number, line in enumerate(lines))
    return sum(1 for _ in itertools.takewhile(bool, goes_on))


def _table(lines: Sequence[_Line]) -> tuple[int, int]:
    """How many lines of a table stand first, and how many of them are its header; 0 and 0 where none does."""
    texts = [line.text for line in lines[:3]]
    if len(texts) > 1 and "|" in texts[0] and "|" in texts[1] and _RULE.match(texts[1]):
        return 2 + sum(1 for _ in itertools.takewhile(lambda line: "|" in line.text, lines[2:])), 2
    for count in (lambda text: text.count("|"), lambda text: len(_SEPARATORS.findall(text))):
        wanted = count(texts[0])
        if wanted and len(texts) == 3 and all(count(text) == wanted for text in texts) and lines[0].plain:
            return sum(1 for _ in itertools.takewhile(lambda line: count(line.text) == wanted, lines)), 1  # noqa: B023
    return 0, 0


def _prose(text: str, lines: Sequence[_Line], passage: int) -> Iterator[Unit]:
    """Sentences; of lines that were not broken for their length, each line's own."""
    wrapped = _is_wrapped(lines)
    parts = (
        [(_begin(lines[0]), lines[-1].end)] if wrapped else [(_begin(line), line.end) for line in lines if line.text]
    )
    for start, end in parts:
        sentences = _sentences(text, start, end)
        kind: Kind = "sentence" if wrapped or len(sentences) > 1 or _END.search(text[start:end] + " ") else "line"
        yield from (Unit(a, b, kind, passage) for part in sentences for a, b in _cut(text, *part))


def _is_wrapped(lines: Sequence[_Line]) -> bool:
    """Whether lines were broken for their length: all but the last nearly as long as the longest, some mid-sentence."""
    lengths = [len(line.text) for line in lines[:-1]]
    if not lengths or max(lengths) < _WRAPPED or min(lengths) < 0.6 * max(lengths):
        return False
    return any(line.text.lstrip()[:1].islower() for line in lines[1:])


def _sentences(text: str, start: int, end: int) -> list[tuple[int, int]]:
    edges = [start]
    part = text[start:end] + " "
    for match in _END.finditer(part):
        behind = part[match.end() :].lstrip()[:1]
        stop = match[1] == "." and (behind.islower() or behind.isdigit() or _SHORT.search(part[: match.start()]))
        if not stop and start + match.end() < end:
            edges.append(start + match.end())
    spans = itertools.pairwise([*edges, end])
    return [(a + len(text[a:b]) - len(text[a:b].lstrip()), a + len(text[a:b].rstrip())) for a, b in spans]


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A part whole, or where it is too long in pieces that end at white space, if there is any."""
    while end - start > LONGEST:
        space = max(text.rfind(mark, start + LONGEST // 2, start + LONGEST) for mark in " \n\t")
        cut = space if space > start else start + LONGEST
        yield start, cut
        start = cut + len(text[cut:end]) - len(text[cut:end].lstrip())
    yield start, end
