"""Token ids to text as they come, and strings that end it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class TextDecoder:
    """Token ids to text, bit by bit: holds back what the next token may still change.

    Args:
        marks: names of tokens that stand in the text though the tokenizer may call them special, as those around calls
            of tools do in some families; of other special tokens nothing is seen.
    """

    def __init__(self, tokenizer: Any, marks: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._marks = {tokenizer.convert_tokens_to_ids(mark): mark for mark in marks}
        self._ids: list[int] = []
        self._start = self._done = 0

    def push(self, token: int) -> str:
        """The text that is certain once this token is there."""
        if token in self._marks:
            text = self.flush() + self._marks[token]
            self._ids, self._start, self._done = [], 0, 0
            return text
        self._ids.append(token)
        text, known = self._text(), self._decode(self._ids[self._start : self._done])
        if len(text) <= len(known) or text.endswith("\ufffd"):
            return ""
        self._start, self._done = self._done, len(self._ids)
        return text[len(known) :]

    def flush(self) -> str:
        """The text still held back."""
        return self._text()[len(self._decode(self._ids[self._start : self._done])) :]

    def _text(self) -> str:
        return self._decode(self._ids[self._start :])

    def _decode(self, ids: list[int]) -> str:
        if self._tokenizer is None or not ids:
            return ""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string in a text begins."""
    starts = [text.find(stop) for stop in stops if stop in text]
    return min(starts) if starts else None


def partial_stop(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that may be the beginning of a stop string."""
    longest = min(len(text), max(map(len, stops), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in stops)), 0)
