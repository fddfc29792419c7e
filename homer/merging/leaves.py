"""Leaves: where the leaves of a tree come from."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence

from homer.merging.chunk import Chunk
from homer.merging.walk import Walk
from homer.plan.batches import together
from homer.plan.schedule import MergePlan


class Leaves(abc.ABC):
    """The leaves of one tree: whatever is known of them before, the levels above go on as ever."""

    @abc.abstractmethod
    def chunks(self, walk: Walk) -> Iterator[Chunk]:
        """Every leaf in order, after its layers and its pruning; it may come without keys and values."""

    def complete(self, root: Chunk) -> Chunk:
        """The root, with the keys and values that its leaves came without."""
        return root

    def batches(self, plan: MergePlan) -> list[list[int]]:
        """All leaves, as they run together, where `run` can run them on any device; none where it cannot."""
        return []

    def run(self, walk: Walk, batch: Sequence[int]) -> list[Chunk]:
        """The leaves of a batch after their layers and their pruning."""
        raise NotImplementedError


class WholeLeaves(Leaves):
    """Leaves of which nothing is known: they are run from their first token to their last.

    Args:
        batch_size: leaves of equal length that run at a time.
    """

    def __init__(self, batch_size: int = 1) -> None:
        self._batch_size = batch_size

    def chunks(self, walk: Walk) -> Iterator[Chunk]:
        """As `Leaves.chunks`."""
        for batch in self.batches(walk.plan):
            yield from self.run(walk, batch)

    def batches(self, plan: MergePlan) -> list[list[int]]:
        """As `Leaves.batches`."""
        return together(plan.lengths[0], self._batch_size)

    def run(self, walk: Walk, batch: Sequence[int]) -> list[Chunk]:
        """As `Leaves.run`."""
        return walk.run_together([walk.leaf(index) for index in batch], 0, list(batch))
