"""Ends of sentences in any script, told from characters."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator

# What ends a sentence where white space follows, beside Latin marks: of Arabic and Urdu, Devanagari and its neighbours,
# Armenian, Ethiopic, Burmese, Tibetan, Khmer and Mongolian.
STOPS = (
    "\u061f\u061e\u06d4\u0964\u0965\u0589\u1362\u1367\u1368\u104a\u104b\u0f0d\u0f0e\u17d4\u17d5\u1803\u1809"
    "\u203c\u203d\u2047\u2048\u2049"
)
WIDE = "\u3002\uff01\uff1f\uff61"  # of Chinese and Japanese; they need no white space
LONGEST = 1000  # characters; what has no end is cut there, at white space, so that it cannot take all of a budget

_CLAUSES = 200  # the same in a script without full stops, whose white space parts clauses
_LATIN = ".!?\u2026"
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_CLOSING = r"[\"'\u201d\u2019\u00bb)\]*_]*(?:\[\w{1,3}\])*[\u00b9\u00b2\u00b3\u2070-\u2079]*(?:</\w{1,10}>)*"
_END = re.compile(
    rf"(?<![{_LATIN}])([{_LATIN}]+){_CLOSING}(?=\s)|[{STOPS}]+{_CLOSING}(?=\s)"
    rf"|[{WIDE}]+[\u300d\u300f\u201d\uff09]*|[!?\u2026]+(?=[{_IDEOGRAPHS}])"
    r"|(?i:</(?:p|div|li|tr|dt|dd|h[1-6]|title|blockquote)>|<br ?/?>)"
)
_SHORT = re.compile(
    r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|cf|e\.g|i\.e|etc|al|No|Nos|Fig|Vol|Gen|Col|Capt|Lt|Sgt|Rev|Hon|ca"
    r"|approx|Dept|bzw|ggf|evtl|vgl|d\.h|u\.a|Nr|Hr|Sra|Dra))$"
)
_SHORTEST = 12  # characters that are enough to know a short form by
_SOMETHING = re.compile(r"\S")
_SPACE = re.compile(r"\s")
_PAUSE = re.compile("[\u3001\uff0c\uff1b]")  # commas of scripts that put no white space behind them
_UNSTOPPED = re.compile("[\u0e00-\u0eff]")  # Thai and Lao


def has_end(text: str, start: int, end: int) -> bool:
    """Whether a sentence ends in a stretch of a text, or with it."""
    return _END.search(f"{text[start:end]} ") is not None


def sentences(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The sentences of a stretch of a text, without white space around them; linear in its length."""
    edges = [start]
    for match in _END.finditer(text, start, end):
        if match.end() < end and not (match[1] == "." and _goes_on(text, match.start(), match.end(), end)):
            edges.append(match.end())
    return [_bare(text, *edge) for edge in itertools.pairwise([*edges, end]) if text[edge[0] : edge[1]].strip()]


def _goes_on(text: str, stop: int, behind: int, end: int) -> bool:
    """Whether a sentence goes on behind its full stop: that of a short form, or before a small letter or a digit."""
    following = _SOMETHING.search(text, behind, end)
    after = following[0] if following else ""
    return after.islower() or after.isdigit() or bool(_SHORT.search(text[max(0, stop - _SHORTEST) : stop]))


def _bare(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())


def cut_long(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A stretch whole, or where it is too long in pieces that end at white space, if there is any."""
    while end - start > LONGEST or (end - start > _CLAUSES and _is_unstopped(text[start : start + _CLAUSES])):
        cut = _last_gap(text, start, end)
        if cut >= end:
            break
        yield _bare(text, start, cut)
        following = _SOMETHING.search(text, cut, end)
        assert following  # a stretch ends with something
        start = following.start()
    yield start, end


def _is_unstopped(text: str) -> bool:
    return 2 * len(_UNSTOPPED.findall(text)) > len(text)


def _last_gap(text: str, start: int, end: int) -> int:
    """Where to cut what is too long: at the last white space in the limit, or a comma, or between letters."""
    limit = start + LONGEST
    if _is_unstopped(text[start : start + _CLAUSES]):
        near = [match.start() for match in _SPACE.finditer(text, start + _CLAUSES // 2, start + _CLAUSES)]
        far = _SPACE.search(text, start + _CLAUSES, min(limit, end))
        if near or far or end <= limit:
            return near[-1] if near else far.start() if far else end
    spaces = [match.start() for match in _SPACE.finditer(text, start, limit)]
    commas = [] if spaces else [match.end() for match in _PAUSE.finditer(text, start, limit)]
    if spaces or commas:
        return (spaces or commas)[-1]
    while limit < end and (unicodedata.category(text[limit])[0] == "M" or "\u200d" in text[limit - 1 : limit + 1]):
        limit += 1  # an accent belongs to the letter before it, and so do parts of one sign
    return limit
