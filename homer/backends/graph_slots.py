"""Rows that go on together as CUDA graphs, one for every number of rows, over keys and values that never move."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homer.backends.entries import Entries
from homer.backends.graph import CAPTURE, decode
from homer.backends.kernels.plain import ROUND
from homer.backends.layers import FusedLayers
from homer.backends.slots import Entry, Slots, size_for

_SHARE = 0.7  # of what memory is left, what the slots may take where more than one row runs
_IDLE = 0.125  # the same where none does, so that their graphs are there for the next one


@dataclasses.dataclass
class _Row:
    length: int
    position: int
    room: int


class GraphSlots(Slots):
    """Rows with columns of their own in tensors of (rows, capacity): as long as the longest may become.

    A graph serves any rows up to its number: the spare ones run as well, at column 0, and never move on. Graphs are
    made anew where the tensors grow; while no row is there, both stay if they are small beside what memory is free.
    """

    def __init__(self, layers: FusedLayers) -> None:
        self._layers, self._rows = layers, list[_Row]()
        self._sides: list[Tensor] = []  # one (2, size, capacity, key heads, head dim) a layer: keys and values
        self._size = self._capacity = 0
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._captures = layers.device.type == "cuda"
        self._pool: Any = None
        self._state = torch.zeros(4, 0, dtype=torch.long)
        self._logits = torch.zeros(0, layers.vocabulary)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def logits(self) -> Tensor:
        """As `Slots.logits`."""
        return self._logits[: len(self)]

    @torch.no_grad()
    def join(self, entries: Sequence[Entry]) -> None:
        """As `Slots.join`."""
        needed = max(entry.length + entry.room for entry in entries)
        size = size_for(len(self) + len(entries))
        # in wide steps, since whatever grows throws all graphs away
        capacity = -(-needed // (4 * ROUND)) * 4 * ROUND
        if size > self._size or capacity > self._capacity:
            if not self._rows:  # what stayed for the next ones is of no use to these
                self._forget()
            self._grow(max(self._size, size), max(self._capacity, capacity), entries[0])
        for row, entry in enumerate(entries, len(self)):
            for side, layer in zip(self._sides, entry.entries, strict=True):
                for room, part in zip(side, layer, strict=True):
                    room[row, : entry.length] = part[0].transpose(0, 1)
            self._logits[row] = entry.logits[0]
            self._state[:, row] = torch.tensor([0, entry.position, entry.length, 1])
        self._rows += [_Row(entry.length, entry.position, entry.room) for entry in entries]

    @torch.no_grad()
    def leave(self, row: int) -> None:
        """As `Slots.leave`."""
        last, end = self._rows.pop(), len(self._rows)
        if row < end:
            for side in self._sides:
                side[:, row, : last.length] = side[:, end, : last.length]
            self._logits[row] = self._logits[end]
            self._state[:, row] = self._state[:, end]
            self._rows[row] = last
        self._state[:, end] = 0

    def stays(self) -> bool:
        """As `Slots.stays`."""
        held = sum(side.nbytes for side in self._sides)
        return bool(self._graphs) and held <= _IDLE * (held + _free(self._layers.device))

    @torch.no_grad()
    def take(self, row: int) -> Entry:
        """As `Slots.take`."""
        facts = self._rows[row]
        keys, values = (
            tuple(side[i, row : row + 1, : facts.length].transpose(1, 2).clone() for side in self._sides)
            for i in (0, 1)
        )
        return Entry(Entries(keys, values), self._logits[row : row + 1].clone(), facts.position, facts.room)

    @torch.no_grad()
    def step(self, tokens: Tensor) -> None:
        """As `Slots.step`."""
        self._state[0, : len(self)].copy_(tokens, non_blocking=True)
        size = size_for(len(self))
        if not self._captures:
            self._run(size)
        else:
            if size not in self._graphs:
                self._graphs[size] = self._capture(size)
            self._graphs[size].replay()
        for row in self._rows:
            row.length, row.position, row.room = row.length + 1, row.position + 1, row.room - 1

    def _run(self, size: int) -> None:
        """Run the tokens that wait in the first rows, and move those on that are in use."""
        tokens, positions, columns, used = self._state[:, :size]
        keys, values = ([side[i, :size] for side in self._sides] for i in (0, 1))
        self._logits[:size].copy_(decode(self._layers, tokens[:, None], positions[:, None], columns, keys, values))
        positions += used
        columns += used

    def _forget(self) -> None:
        """Let go of all that is held, so that there is room for what comes."""
        self._graphs, self._pool, self._sides = {}, None, []
        self._size = self._capacity = 0

    def _grow(self, size: int, capacity: int, like: Entry) -> None:
        """Larger tensors with the old rows in them; graphs go first, since they know where the old ones are."""
        self._check(size, capacity, like)
        self._graphs, self._pool, old = {}, None, len(self)
        device = self._layers.device
        if not self._sides:
            self._sides = [key.new_zeros(0) for key in like.entries.keys]
        for layer, key in enumerate(like.entries.keys):
            before = self._sides[layer]
            side = torch.zeros(2, size, capacity, key.shape[1], key.shape[3], dtype=key.dtype, device=device)
            if old:
                side[:, :old, : before.shape[2]] = before[:, :old]
            self._sides[layer] = side
        state, logits = self._state, self._logits
        self._state = torch.zeros(4, size, dtype=torch.long, device=device)
        self._logits = torch.zeros(size, logits.shape[1], device=device)
        if old:
            self._state[:, :old], self._logits[:old] = state[:, :old], logits[:old]
        self._size, self._capacity = size, capacity

    def _check(self, size: int, capacity: int, like: Entry) -> None:
        """Raise OutOfMemoryError where several rows would leave too little to others; a batch then takes fewer."""
        device = self._layers.device
        if device.type != "cuda" or size == 1:
            return
        token = like.entries.nbytes // like.length  # bytes of one
        free = _free(device) + self._size * self._capacity * token
        if size * capacity * token > _SHARE * free:
            raise torch.OutOfMemoryError(
                f"{size} rows of {capacity} columns take {size * capacity * token:,} bytes, of {free:,} that are free"
            )

    def _capture(self, size: int) -> torch.cuda.CUDAGraph:
        """The graph of one step; the step that warms it up is taken back."""
        device = self._layers.device
        stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with CAPTURE, torch.cuda.stream(stream):
            before = self._state.clone()
            self._run(size)  # kernels are compiled and buffers made here, which a capture does not allow
            self._state.copy_(before)
            stream.synchronize()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                self._run(size)
            except BaseException:
                with contextlib.suppress(Exception):
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(stream)
        return graph


def _free(device: torch.device) -> int:
    """Bytes of a GPU that nothing holds."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused
