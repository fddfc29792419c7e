"""Cutting: which part of a harness's text is compressed. Its beginning and what it asks for at the end stay whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

HEAD = 64  # tokens at most, in whole lines: what the task is
LEAST, MOST = 8, 256  # tokens of the last lines that stay: a question, with the opening of its answer
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_WORD = re.compile(r"\s*\S+")

Count = Callable[[str], int]


class Cut(NamedTuple):
    """A text in three parts; joined, they are the text."""

    head: str
    middle: str
    tail: str


def cut(text: str, count: Count) -> Cut:
    """A text as the prefix, context and suffix of a prompt.

    The tail is as many of the last lines as it takes for a question, since harnesses put it last; of a line that is
    longer, its last words. The head is as many of the first lines as fit a few tokens.

    Args:
        count: tokens of a text.
    """
    lines = _LINE.findall(text)
    first = len(lines)
    while first > 0 and count("".join(lines[first:])) < LEAST:
        first -= 1
    tail = "".join(lines[first:])
    if count(tail) > MOST:
        tail = _last_words(tail, count)
    rest = text[: len(text) - len(tail)]
    head = ""
    for line in _LINE.findall(rest):
        if count(head + line) > HEAD:
            break
        head += line
    return Cut(head, rest[len(head) :], tail)


def _last_words(text: str, count: Count) -> str:
    """The last words of a text, a quarter of `MOST` tokens at most; at least one character."""
    words = _WORD.findall(text) or [text]
    trailing = text[len("".join(words)) :]
    first = len(words)
    while first > 0 and count("".join(words[first - 1 :]) + trailing) <= MOST // 4:
        first -= 1
    kept = "".join(words[first:]) + trailing
    return kept if kept.strip() else text[-MOST // 4 :]
