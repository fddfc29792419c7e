"""Batches: which leaves run together, and how many at a time where that is left to the library."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from homer.plan.owners import owners
from homer.plan.schedule import MergePlan

# Rows times hidden size from which on a large GPU is no faster by more rows, as measured on an H100 for hidden sizes
# from 576 to 4,096. On small cards fewer would do; what more rows hold in memory is small beside the weights.
FULL = 2**24
MOST = 16  # chunks of a batch, so that what a tiny model holds at a time stays small as well


def together(lengths: Sequence[int], size: int) -> list[list[int]]:
    """All leaves by their numbers, as they run: neighbours of one length, `size` at most at a time."""
    groups = (list(group) for _, group in itertools.groupby(range(len(lengths)), key=lengths.__getitem__))
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def filling(hidden_size: int, length: int, count: int) -> int:
    """How many of `count` leaves of `length` tokens fill a large GPU at a time, 16 at most.

    A power of two, as the number of a tree's leaves is, so that few batches are left half empty.
    """
    most = min(FULL // (hidden_size * length), count, MOST)
    return 1 << max(0, most.bit_length() - 1)


def leaves_at_once(plan: MergePlan, hidden_size: int, devices: int = 1) -> int:
    """The same for a plan's leaves; of several devices no two have to run one batch."""
    lengths, owner = plan.lengths[0], owners(plan, devices)[0]
    size = filling(hidden_size, max(lengths), len(lengths))
    while any(owner[batch[0]] != owner[batch[-1]] for batch in together(lengths, size)):
        size //= 2  # ends with batches of one leaf at the latest
    return size
