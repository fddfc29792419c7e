"""The states of a context's leaves: found in a store, or made by running them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from homer.backends.base import Decoder
from homer.backends.devices import Replicas, deal
from homer.plan.schedule import MergePlan
from homer.reuse.states import LeafStates, run_leaves
from homer.reuse.store import StateStore, leaf_key


@dataclasses.dataclass(frozen=True)
class Where:
    """Where states are looked for and put, and where they lie then.

    Attributes:
        tick: called after every batch of leaves; what it raises ends the work.
        replicas: the decoder and its copies on other devices, by which leaves are run in turn.
    """

    store: StateStore | None = None
    pinned: bool = False
    progress: bool = False
    tick: Callable[[], None] = lambda: None
    replicas: Replicas | None = None


@dataclasses.dataclass(frozen=True)
class Slices:
    """A context cut into leaves.

    Attributes:
        prefix_ids: (m,), in front of every leaf.
        own: what each leaf has of the context, (n,) each.
        layers: how many the leaves run.
    """

    prefix_ids: Tensor
    own: tuple[Tensor, ...]
    layers: int

    @classmethod
    def of(cls, prefix_ids: Tensor, context_ids: Tensor, plan: MergePlan) -> Slices:
        """As a plan cuts it."""
        return cls(prefix_ids, tuple(context_ids[start:end] for start, end in plan.spans), plan.layers[0][1])

    def key(self, decoder: Decoder, number: int) -> str:
        """Under which a leaf's states stand in a store."""
        return leaf_key(decoder, self.layers, self.prefix_ids, self.own[number])


def find(decoder: Decoder, slices: Slices, store: StateStore | None) -> Iterator[tuple[int, LeafStates]]:
    """The number and the states of every leaf that is in a store."""
    if store is not None:
        keys = [slices.key(decoder, number) for number in range(len(slices.own))]
        found = enumerate(store.find(keys, decoder.device))
        yield from ((number, states) for number, states in found if states is not None)


def make(
    decoder: Decoder, slices: Slices, numbers: Iterable[int], where: Where, tokens_at_once: int
) -> Iterator[dict[int, LeafStates]]:
    """The states of some leaves by their numbers, a batch at a time, once they are in the store, if there is one.

    Args:
        tokens_at_once: of leaves that run in one batch, where several fit.
    """

    def run(batch: list[int], decoder: Decoder) -> list[LeafStates]:
        made = run_leaves(decoder, slices.prefix_ids, [slices.own[i] for i in batch], slices.layers)
        return [states.to(home) for states in made]

    home, batches = decoder.device, list(_batches(slices, numbers, tokens_at_once))
    calls = (functools.partial(run, batch) for batch in batches)
    for batch, made in zip(batches, deal(calls, decoder, where.replicas), strict=True):
        kept = {number: states.pin() if where.pinned else states for number, states in zip(batch, made, strict=True)}
        if where.store is not None:
            for number, states in kept.items():
                where.store.put(slices.key(decoder, number), states)
        yield kept


def _batches(slices: Slices, numbers: Iterable[int], tokens_at_once: int) -> Iterator[list[int]]:
    """Leaves of like length together, as many as fill a chunk or are asked for."""
    batch: list[int] = []
    for number in sorted(numbers, key=lambda i: len(slices.own[i])):
        length = len(slices.prefix_ids) + len(slices.own[number])
        if batch and (len(batch) + 1) * length > tokens_at_once:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
