"""Units: what of a text stays or goes as a whole: sentences, rows of a table, list items, headings, blocks of code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from homer.text.ends import cut_long, has_end, sentences
from homer.text.lines import Line, find_fences, is_underlined, split_lines
from homer.text.tables import Table, begins_table, read_table

Kind = Literal["sentence", "line", "heading", "item", "header", "row", "code"]

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


def split_units(text: str) -> list[Unit]:
    """The units of a text, in order; white space between them belongs to none.

    Sentences end with a full stop that white space follows, unless an abbreviation or an initial does it; lines end
    them, unless they were broken for their length. A row of a table (Markdown's, drawn with rules, or of values between
    tabs, commas or semicolons) knows its header; a list item is whole, and so is a block of code between fences.
    """
    return _Splitter(text).units


class _Splitter:
    """Goes through the lines of a text once; a heading is of the passage below it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines = split_lines(text)
        self._fences = find_fences(self._lines)
        self.units: list[Unit] = []
        self._passage = 0
        index = 0
        while index < len(self._lines):
            index = self._pass_on(index)

    def _pass_on(self, index: int) -> int:
        """Add the units of what begins at a line; the number of the line behind it."""
        line, lines = self._lines[index], self._lines
        if not line.unquoted:
            return self._end_passage(index)
        if index in self._fences:
            behind = self._fences[index]
            return self._add("code", [(line.begin, max(each.end for each in lines[index:behind]))], behind)
        table = read_table(lines, index)
        if table:
            return self._add_table(table, index)
        if line.heads or (line.plain and is_underlined(lines, index)):
            behind = index + 1 if line.heads else index + 2
            return self._add("heading", [(line.begin, lines[behind - 1].end)], behind)
        behind = self._while_plain(index + 1)
        if line.item:
            return self._add("item", cut_long(self._text, line.begin, lines[behind - 1].end), behind)
        self.units += _prose(self._text, lines[index:behind], self._passage)
        return behind

    def _add(self, kind: Kind, spans: Iterable[tuple[int, int]], behind: int) -> int:
        self.units += (Unit(start, end, kind, self._passage) for start, end in spans)
        return behind

    def _add_table(self, table: Table, index: int) -> int:
        number = len(self.units)
        kind: Kind = "header"
        header: int | None = None
        for length in (table.header, *table.rows):
            first, last = self._lines[index], self._lines[index + length - 1]
            self.units.append(Unit(first.begin, last.end, kind, self._passage, header))
            index, kind, header = index + length, "row", number
        return index

    def _end_passage(self, index: int) -> int:
        """Nothing stands in a line, or the mark of a quotation, which goes with what is before it."""
        line = self._lines[index]
        last = self.units[-1] if self.units and self.units[-1].passage == self._passage else None
        if line.text and last is None:
            self.units.append(Unit(line.begin, line.end, "line", self._passage))
        elif line.text and last is not None:
            self.units[-1] = last._replace(end=line.end)
        self._passage += bool(line.text) or (last is not None and last.kind != "heading")
        return index + 1

    def _while_plain(self, index: int) -> int:
        """The number of the first line that begins another kind, or a table, or holds nothing."""
        lines = self._lines
        while index < len(lines) and lines[index].unquoted and lines[index].plain and index not in self._fences:
            if begins_table(lines, index):
                break
            index += 1
        return index


def _prose(text: str, lines: Sequence[Line], passage: int) -> Iterator[Unit]:
    """Sentences; of lines that were not broken for their length, each line's own."""
    wrapped = _is_wrapped(lines)
    parts = [(lines[0].begin, lines[-1].end)] if wrapped else [(line.begin, line.end) for line in lines]
    for start, end in parts:
        found = sentences(text, start, end)
        kind: Kind = "sentence" if wrapped or len(found) > 1 or has_end(text, start, end) else "line"
        yield from (Unit(a, b, kind, passage) for part in found for a, b in cut_long(text, *part))


def _is_wrapped(lines: Sequence[Line]) -> bool:
    """Whether lines were broken for their length: all but the last nearly as long as the longest, some mid-sentence."""
    lengths = [len(line.text) for line in lines[:-1]]
    if not lengths or max(lengths) < _WRAPPED or min(lengths) < 0.6 * max(lengths):
        return False
    return any(line.unquoted[:1].islower() for line in lines[1:])
