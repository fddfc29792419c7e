"""ContextLeaves: the states of all leaves of a context, found in a store or made by running them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from homer.backends.base import Decoder
from homer.plan.schedule import MergePlan
from homer.reuse.states import LeafStates, run_leaves, run_prefix
from homer.reuse.store import StateStore, leaf_key


class ContextLeaves:
    """The states of a context's leaves by a plan.

    Attributes:
        prefix: the prefix's states.
        tokens_at_once: of leaves that run in one batch, where several fit.
        reused: tokens whose states came from the store.
    """

    def __init__(
        self,
        decoder: Decoder,
        prefix_ids: Tensor,
        context_ids: Tensor,
        plan: MergePlan,
        store: StateStore | None,
        pinned: bool,
    ) -> None:
        self._prefix_ids, self._decoder = prefix_ids, decoder
        self._store, self._pinned, self._layers = store, pinned, plan.layers[0][1]
        self._slices = [context_ids[start:end] for start, end in plan.spans]
        self._found: dict[int, LeafStates] = {}
        self.reused, self.tokens_at_once = 0, 0
        self.prefix = run_prefix(decoder, prefix_ids, self._layers)

    @property
    def leaves(self) -> tuple[LeafStates, ...]:
        """All of them, once `run` is through."""
        return tuple(self._found[i] for i in range(len(self._slices)))

    def run(self) -> Iterator[int]:
        """Find or make all; yields how many came at a time."""
        for number, states in enumerate(self._look_up()):
            if states is not None:
                self._found[number] = states
                self.reused += len(states)
                yield 1
        missing = [i for i in range(len(self._slices)) if i not in self._found]
        for batch in self._batches(missing):
            made = run_leaves(self._decoder, self._prefix_ids, [self._slices[i] for i in batch], self._layers)
            for number, states in zip(batch, made, strict=True):
                self._found[number] = self._keep(number, states)
            yield len(batch)

    def _look_up(self) -> Iterator[LeafStates | None]:
        if self._store is not None:
            yield from self._store.find([self._key(i) for i in range(len(self._slices))], self._decoder.device)

    def _keep(self, number: int, states: LeafStates) -> LeafStates:
        if self._pinned:
            states = states.pin()
        if self._store is not None:
            self._store.put(self._key(number), states)
        return states

    def _key(self, number: int) -> str:
        return leaf_key(self._decoder, self._layers, self._prefix_ids, self._slices[number])

    def _batches(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Leaves of like length together, as many as fill a chunk or are asked for."""
        batch: list[int] = []
        for number in sorted(numbers, key=lambda i: len(self._slices[i])):
            length = len(self._prefix_ids) + len(self._slices[number])
            if batch and (len(batch) + 1) * length > self.tokens_at_once:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch
