"""Lines of a text, and which of them open or close a block of code, head what follows, or begin an item of a list."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence

_LINE = re.compile(r"([^\r\n\v\f\x85\u2028\u2029]*)(?:\r\n|[\r\n\v\f\x85\u2028\u2029]|\Z)")
_AHEAD = r"[ \t]*(?:(?:>|[-*+]|\d{1,3}[.)])[ \t]*)*"  # a quotation, or an item of a list
_OPENS = re.compile(rf"{_AHEAD}(`{{3,}}(?!`)(?=[^`]*$)|~{{3,}}(?!~))(.*)")
_CLOSES = re.compile(r"[ \t]*(?:>[ \t]*)*(`{3,}|~{3,})$")
_HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t]")
_ITEM = re.compile(r"[ \t]*(?:[-*+\u2022\u2023\u25e6\u25aa\u25cf]|\d{1,3}[.)]|[a-zA-Z]\)|\(\w{1,3}\))[ \t]+\S")
_UNDERLINE = re.compile(r"[ \t]{0,3}(?:={3,}|-{3,}|([~^\"'*+#.])\1{3,})$")  # the latter of reStructuredText
_LONGEST_TITLE = 200  # characters of a line that may be a heading


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a text.

    Attributes:
        start, end: its characters, without white space and the break at its end.
        text: these.
        whole: the line up to its break; of values between tabs, the last may be empty.
    """

    start: int
    end: int
    text: str
    whole: str

    @property
    def begin(self) -> int:
        """Where its first character stands that is no white space."""
        return self.end - len(self.text.lstrip())

    @functools.cached_property
    def unquoted(self) -> str:
        """Its text without the marks of a quotation; nothing, where it holds no more than these."""
        return self.text.lstrip("> \t")

    @property
    def heads(self) -> bool:
        """Whether it is a heading, as Markdown has it."""
        return bool(_HEADING.match(self.text))

    @property
    def item(self) -> bool:
        """Whether it begins an item of a list."""
        return bool(_ITEM.match(self.text))

    @property
    def plain(self) -> bool:
        """Whether it begins nothing of a kind of its own."""
        return not (self.heads or self.item)


def split_lines(text: str) -> list[Line]:
    """All lines of a text, in order."""
    found = []
    for match in _LINE.finditer(text):
        bare = match[1].rstrip()
        if match.end() > match.start():
            found.append(Line(match.start(), match.start() + len(bare), bare, match[1]))
    return found


def is_underlined(lines: Sequence[Line], index: int) -> bool:
    """Whether a line is a heading by the line below it: dashes, equals signs, or others that are about as long."""
    line, below = (lines[number].text if number < len(lines) else "" for number in (index, index + 1))
    under = _UNDERLINE.match(below)
    if not under or not 0 < len(line) <= _LONGEST_TITLE or _UNDERLINE.match(line):
        return False
    return not under[1] or 0 <= len(below) - len(line) <= 2


def find_fences(lines: Sequence[Line]) -> dict[int, int]:
    """Blocks of code between fences: the number of each one's first line -> that of the line behind it.

    What is never closed goes on to the end where its fence says a language. A bare fence that nothing closes is no
    block: it is more likely the end of one that began before this text, of which this is a piece.
    """
    fences: dict[int, int] = {}
    index = 0
    while index < len(lines):
        end = _closed(lines, index)
        if end is not None:
            fences[index] = end
        index = end or index + 1
    return fences


def _closed(lines: Sequence[Line], index: int) -> int | None:
    opening = _OPENS.match(lines[index].text) if "```" in lines[index].text or "~~~" in lines[index].text else None
    if opening is None or (index and is_underlined(lines, index - 1)):
        return None
    for number in range(index + 1, len(lines)):
        closing = _CLOSES.match(lines[number].text)
        if closing and closing[1].startswith(opening[1]):
            return number + 1
    return len(lines) if opening[2].strip() else None
