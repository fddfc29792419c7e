"""Windows: equal leaves over a context that end where its parts end, so that none is torn where it need not be."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple


class Leaf(NamedTuple):
    """What a leaf reads of a context, start..end-1, and what of that is its own: from `first` to `last`-1."""

    start: int
    end: int
    first: int
    last: int


def windows(context_len: int, room: int, borders: Sequence[int]) -> list[Leaf]:
    """As few leaves of at most `room` tokens as it takes, all equally long, whose own parts cover the context once.

    What stands behind a leaf's own part is read as well, and belongs to the next one: so leaves end with parts, and
    yet are as long as one another, and can run in one batch.

    Args:
        borders: where parts begin, in order; a leaf's own part ends at one, if there is one in its second half.
    """
    known = frozenset(borders)

    def effort(length: int) -> tuple[int, int]:
        starts = _starts(context_len, length, borders)
        return len(starts), sum(start not in known for start in starts[1:])

    low, high = 1, min(room, context_len)
    leaves, torn = effort(high)
    while low < high:  # the shortest leaves that are no more of them, and tear no more parts
        middle = (low + high) // 2
        found = effort(middle) if middle * leaves >= context_len else (leaves + 1, 0)
        low, high = (low, middle) if found[0] <= leaves and found[1] <= torn else (middle + 1, high)
    starts = _starts(context_len, high, borders)
    ends = [*starts[1:], context_len]
    begins = [min(start, context_len - high) for start in starts]
    return [Leaf(begin, begin + high, *own) for begin, *own in zip(begins, starts, ends, strict=True)]


def _starts(context_len: int, length: int, borders: Sequence[int]) -> list[int]:
    starts = [0]
    while starts[-1] + length < context_len:
        end = starts[-1] + length
        border = bisect.bisect_right(borders, end) - 1
        best = borders[border] if border >= 0 else 0
        starts.append(best if best > starts[-1] + length // 2 else end)
    return starts
