"""Leaves: where the leaves of a tree come from."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterator

from homer.merging.chunk import Chunk
from homer.merging.walk import Walk


class Leaves(abc.ABC):
    """The leaves of one tree: whatever is known of them before, the levels above go on as ever."""

    @abc.abstractmethod
    def chunks(self, walk: Walk) -> Iterator[Chunk]:
        """Every leaf in order, after its layers and its pruning; it may come without keys and values."""

    def complete(self, root: Chunk) -> Chunk:
        """The root, with the keys and values that its leaves came without."""
        return root


class WholeLeaves(Leaves):
    """Leaves of which nothing is known: they are run from their first token to their last.

    Args:
        batch_size: leaves of equal length that run at a time.
    """

    def __init__(self, batch_size: int = 1) -> None:
        self._batch_size = batch_size

    def chunks(self, walk: Walk) -> Iterator[Chunk]:
        """As `Leaves.chunks`."""
        lengths = walk.plan.lengths[0]
        for _, group in itertools.groupby(range(len(lengths)), key=lengths.__getitem__):
            indices = list(group)
            for start in range(0, len(indices), self._batch_size):
                batch = indices[start : start + self._batch_size]
                yield from walk.run_together([walk.leaf(index) for index in batch], 0, batch)
