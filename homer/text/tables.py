"""Tables in lines of a text: Markdown's, those drawn with rules, and values between tabs, commas or semicolons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from homer.text.lines import Line

_RULE = re.compile(r"[|+]?[ \t]*:?(?:-+|=+):?[ \t]*(?:[|+][ \t]*:?(?:-+|=+):?[ \t]*)*[|+]?$")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_OPENED = re.compile(r'(?:^|[|\t;,])[ \t]*"')  # a value that begins with a quote; other quotes are inches, or speech
_COMMA = re.compile(",")
_MARKS = (*((re.compile(mark), 1) for mark in (r"\|", r"\t", ";", ",(?! )")), (_COMMA, 2))  # and how often at least
_ANY_MARK = re.compile(r"[|\t;,]")
_FULL_STOP = re.compile(r"[.!?]$")
_LONGEST_ROW = 50  # lines that a row may take by line breaks inside of quotes


class Table(NamedTuple):
    """A table: how many lines its header takes, and each of its rows."""

    header: int
    rows: list[int]


def begins_table(lines: Sequence[Line], index: int) -> bool:
    """Whether a table begins at a line; looks at a few lines only."""
    return _ruled_header(lines, index) > 0 or _mark(lines, index) is not None


def read_table(lines: Sequence[Line], index: int) -> Table | None:
    """The table that begins at a line; None where none does."""
    header = _ruled_header(lines, index)
    if header:
        return Table(header, _ruled_rows(lines, index + header))
    mark = _mark(lines, index)
    if mark is None:
        return None
    header = _row(lines, index)
    return Table(header, _rows(lines, index + header, mark, _count(lines, index, mark)))


def _ruled_header(lines: Sequence[Line], index: int) -> int:
    """How many lines the header takes of a table with a rule below it; 0 where there is none."""
    texts = [line.unquoted for line in lines[index : index + 3]]
    above = int(_is_rule(texts[0]) and len(texts) == 3)  # the line that is drawn over the header
    if len(texts) < above + 2 or "|" not in texts[above] or _is_rule(texts[above]) or not _is_rule(texts[above + 1]):
        return 0
    return above + 2


def _is_rule(text: str) -> bool:
    return ("|" in text or "+" in text) and bool(_RULE.match(text))


def _ruled_rows(lines: Sequence[Line], index: int) -> list[int]:
    """Lines of each row; a rule belongs to the row above it."""
    rows: list[int] = []
    while index < len(lines):
        if rows and _is_rule(lines[index].unquoted):
            rows[-1] += 1
        elif "|" in lines[index].text:
            rows.append(1)
        else:
            break
        index += 1
    return rows


def _mark(lines: Sequence[Line], index: int) -> re.Pattern[str] | None:
    """What stands between the values of a table's first rows: as often in each of three, or twice and more in two."""
    if not _ANY_MARK.search(lines[index].whole):
        return None
    rows, behind = [index], index + _row(lines, index)
    while len(rows) < 3 and behind < len(lines) and lines[behind].text:
        rows.append(behind)
        behind += _row(lines, behind)
    return next((mark for mark, least in _MARKS if len(rows) > 1 and _agree(lines, rows, mark, least)), None)


def _agree(lines: Sequence[Line], rows: Sequence[int], mark: re.Pattern[str], least: int) -> bool:
    """Whether a mark stands as often in rows; where white space follows it, prose has to be told from a table."""
    first, second, *third = (_count(lines, row, mark) for row in rows)
    if first != second or first < least:
        return False
    if mark is _COMMA:
        return third == [first] and not any(_FULL_STOP.search(lines[row].text) for row in rows)
    return first > 1 or third == [first]


def _rows(lines: Sequence[Line], index: int, mark: re.Pattern[str], wanted: int) -> list[int]:
    """Lines of each row; one with too few values or too many does not end the table, if others follow it."""
    rows: list[int] = []
    while index < len(lines) and lines[index].text:
        length = _row(lines, index)
        below = index + length
        follows = below < len(lines) and lines[below].text and _count(lines, below, mark) == wanted
        if _count(lines, index, mark) != wanted and not follows:
            break
        rows.append(length)
        index = below
    return rows


def _row(lines: Sequence[Line], index: int) -> int:
    """How many lines the row takes that begins at a line: more than one, where a quoted value holds line breaks."""
    if not lines[index].text.count('"') % 2 or not _OPENED.search(lines[index].text):
        return 1
    for number, line in enumerate(lines[index + 1 : index + _LONGEST_ROW], 2):
        if line.text.count('"') % 2:
            return number
    return 1


def _count(lines: Sequence[Line], index: int, mark: re.Pattern[str]) -> int:
    """How often a mark stands in a row outside of quotes."""
    text = "\n".join(line.whole for line in lines[index : index + _row(lines, index)])
    return len(mark.findall(_QUOTED.sub("", text) if '"' in text else text))
