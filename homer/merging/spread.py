"""Spread: the tree folded by several devices at once, each its own stretch of leaves and what is merged of them."""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import NamedTuple

import torch

from homer.backends.devices import Replicas, settle
from homer.backends.pausing import pause
from homer.merging.chunk import Chunk, merge
from homer.merging.leaves import Leaves
from homer.merging.node import Node, Watcher
from homer.merging.walk import Walk
from homer.plan.owners import owners
from homer.plan.schedule import MergePlan

_AHEAD = 2  # steps that wait at every device, so that it never waits for the next

Address = tuple[int, int]  # of a node: level, index


class _Step(NamedTuple):
    """What a device runs at a time: leaves together, or one node above them."""

    device: int
    makes: tuple[Address, ...]
    takes: tuple[Address, ...] = ()
    batch: tuple[int, ...] = ()  # leaves that run together, of which `makes` are the device's own


def spread(
    replicas: Replicas, walk: Walk, leaves: Leaves, batches: Sequence[Sequence[int]], watch: Watcher | None = None
) -> Chunk:
    """The root of a plan's tree, on the first device: the very one that this device would fold alone.

    Every node is computed as it would be there, from the same batches of leaves. Each device goes depth first through
    what is its own, so that one chunk a level waits there.

    Args:
        walk: of the first device; what survives is noted there.
        batches: of leaves that run together.
        watch: called after every node, as they end, by the thread that called; what it raises ends the work.
    """
    walks = [walk, *(Walk(d, walk.plan, walk.ids, walk.scoring) for d in replicas.decoders[1:])]
    folding = _Folding(replicas, walks, leaves, watch)
    root = folding.run(steps_of(walk.plan, len(replicas), batches))
    for other in walks[1:]:
        torch.maximum(walk.survived, other.survived.to(walk.survived.device), out=walk.survived)
    return root


def steps_of(plan: MergePlan, devices: int, batches: Sequence[Sequence[int]]) -> Iterator[_Step]:
    """What the devices run: children before parents, and so without a circle of devices that wait for one another.

    Leaves of one batch that belong to two devices are run by both, each for its own: then all is as in one go.
    """
    owner = owners(plan, devices)
    for batch in batches:
        for device in dict.fromkeys(owner[0][leaf] for leaf in batch):
            own = tuple((0, leaf) for leaf in batch if owner[0][leaf] == device)
            yield _Step(device, own, batch=tuple(batch))
        for leaf in batch:
            for level, index, _ in plan.completed(leaf):
                below = tuple((level - 1, child) for child in plan.children(level, index))
                yield _Step(owner[level][index], ((level, index),), below)


class _Folding:
    """One tree while it is folded; steps are started by the thread that called, and run by those of the devices."""

    def __init__(self, replicas: Replicas, walks: Sequence[Walk], leaves: Leaves, watch: Watcher | None) -> None:
        self._walks, self._leaves, self._watch = walks, leaves, watch
        self._start = replicas.runs()
        self._chunks: dict[Address, Chunk] = {}
        self._lies: dict[Address, int] = {}  # the device of what was started; it runs in the order of the starts
        self._done: set[Address] = set()

    def run(self, steps: Iterator[_Step]) -> Chunk:
        """Start every step as soon as it may, until the root is there."""
        waiting: list[deque[_Step]] = [deque() for _ in self._walks]
        for step in steps:
            waiting[step.device].append(step)
        running: dict[Future[list[Chunk]], _Step] = {}
        try:
            while running or any(waiting):
                for queue in waiting:
                    self._fill(queue, running)
                wait(running, return_when=FIRST_COMPLETED)
                for future in [future for future in running if future.done()]:
                    self._end(running.pop(future), future.result())
                    pause()  # here, since the devices' own threads do not
        finally:
            settle(running)
        (root,) = self._chunks.values()
        return root

    def _fill(self, queue: deque[_Step], running: dict[Future[list[Chunk]], _Step]) -> None:
        """Start what a device can do next: what it takes is there, or comes from the same device before."""
        while queue and sum(step.device == queue[0].device for step in running.values()) < _AHEAD:
            step = queue[0]
            if not all(address in self._done or self._lies.get(address) == step.device for address in step.takes):
                return
            queue.popleft()
            self._lies |= dict.fromkeys(step.makes, step.device)
            running[self._start(step.device, functools.partial(self._run, step))] = step

    def _end(self, step: _Step, chunks: list[Chunk]) -> None:
        """Note what is there, and tell of it."""
        self._done |= set(step.makes)
        if self._watch is not None:
            pending = tuple(chunk for address, chunk in list(self._chunks.items()) if address not in step.makes)
            for (level, index), chunk in zip(step.makes, chunks, strict=True):
                length = self._walks[0].plan.lengths[level][index]
                self._watch(Node(level, index, length, chunk, pending))

    def _run(self, step: _Step) -> list[Chunk]:
        """What a step makes, in a thread of its device."""
        walk, device = self._walks[step.device], self._walks[step.device].decoder.device
        if step.batch:
            made = dict(zip(step.batch, self._leaves.run(walk, step.batch), strict=True))
            chunks = [made[index] for _, index in step.makes]
        else:
            ((level, index),) = step.makes
            below = [self._chunks.pop(address) for address in step.takes]
            below = [moved(chunk, device) for chunk in below]
            chunks = [walk.run(merge(*below) if len(below) == 2 else below[0], level, index)]
        self._chunks |= zip(step.makes, chunks, strict=True)
        return chunks


def moved(chunk: Chunk, device: torch.device) -> Chunk:
    """A chunk on a device, with what survived of its keys and values; itself where it is there."""
    if chunk.hidden_states.device == device:
        return chunk
    chunk = chunk.settled()
    return dataclasses.replace(
        chunk,
        hidden_states=chunk.hidden_states.to(device),
        position_ids=chunk.position_ids.to(device),
        tokens=chunk.tokens.to(device),
        entries=chunk.entries.to(device),
        scores=None if chunk.scores is None else chunk.scores.to(device),
    )
