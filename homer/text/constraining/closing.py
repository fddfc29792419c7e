"""The short way to the end of a grammar, for a text that has little room left."""

from __future__ import annotations

from typing import Any

_LAST = ('"', "}", "]", "0", "a")  # what ends a string, else an object, else a list; else something short


class Closer:
    """Finds tokens that end a text as its grammar wants, few of them.

    Args:
        tokens: the tokenizer as llguidance has it.
    """

    def __init__(self, tokens: Any) -> None:
        tokenized = [tokens.tokenize_str(text) for text in _LAST]
        self._preferred = [ids[0] for ids in tokenized if len(ids) == 1]

    def way(self, compiled: Any, limit: int) -> list[int] | None:
        """Tokens from here to where the text may end; None where that takes more than `limit`.

        It is short, though not the shortest there is: every string ends at once, and nothing begins that need not.
        """
        ahead, way = compiled.deep_copy(), list[int]()
        while not ahead.is_accepting():
            forced = ahead.compute_ff_tokens()
            step = forced or [self._choose(ahead.compute_bitmask())]
            if len(way) + len(step) > limit or step == [None] or not ahead.consume_tokens(step):
                return None
            way += step
        return way

    def _choose(self, mask: bytes) -> int | None:
        """The first of those preferred that may come, else any."""
        preferred = (token for token in self._preferred if mask[token // 8] >> token % 8 & 1)
        others = (8 * n + (byte & -byte).bit_length() - 1 for n, byte in enumerate(mask) if byte)
        return next(preferred, None) or next(others, None)
