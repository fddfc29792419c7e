"""Rows that go on together by a model's own code: padded on the left, as any model takes them; or one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from homer.backends.entries import Entries
from homer.backends.slots import Entry, Slots, size_for

Extend = Callable[..., Tensor]  # as Decoder.extend
_SPARE = 256  # columns for new tokens that are made at a time, at most


@dataclasses.dataclass(frozen=True)
class _Row:
    length: int
    position: int
    room: int

    def next(self) -> _Row:
        return _Row(self.length + 1, self.position + 1, self.room - 1)


class PaddedSlots(Slots):
    """Rows that all end at the same column, so that every step writes one column, and padding stands on the left.

    Distances between columns are those between a row's own tokens, as sliding attention windows need them.
    """

    def __init__(self, extend: Extend, device: torch.device) -> None:
        self._extend, self._device = extend, device
        self._rows: list[_Row] = []
        self._layers: list[_Layer] = []
        self._logits = torch.empty(0)
        self._column = 0  # where the next tokens go

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def logits(self) -> Tensor:
        """As `Slots.logits`."""
        return self._logits

    def join(self, entries: Sequence[Entry]) -> None:
        """As `Slots.join`."""
        rows = [*self._rows, *(_Row(entry.length, entry.position, entry.room) for entry in entries)]
        column = max(self._column, *(row.length for row in rows))
        if not self._layers or len(rows) > self._layers[0].rows or column > self._column:
            self._layers, self._column = self._rebuilt(rows, entries[0])
        for number, layer in enumerate(self._layers):
            for row, entry in enumerate(entries, len(self)):
                layer.put(row, self._column, entry.entries.keys[number], entry.entries.values[number])
        where = self._logits.device if self._rows else entries[0].logits.device
        old = [self._logits] if self._rows else []
        self._logits = torch.cat([*old, *(entry.logits.to(where) for entry in entries)])
        self._rows = rows

    def leave(self, row: int) -> None:
        """As `Slots.leave`."""
        last = self._rows.pop()
        if row < len(self._rows):
            for layer in self._layers:
                layer.put(row, self._column, *layer.get(len(self._rows), self._column, last.length))
            self._logits[row] = self._logits[-1]
            self._rows[row] = last
        self._logits = self._logits[:-1]

    def take(self, row: int) -> Entry:
        """As `Slots.take`."""
        facts = self._rows[row]
        sides = [layer.get(row, self._column, facts.length) for layer in self._layers]
        keys, values = (tuple(side[i].clone() for side in sides) for i in (0, 1))
        return Entry(Entries(keys, values), self._logits[row : row + 1].clone(), facts.position, facts.room)

    def step(self, tokens: Tensor) -> None:
        """As `Slots.step`."""
        if self._column == self._layers[0].columns:
            self._layers, self._column = self._rebuilt(self._rows, None)
        longest = max(row.length for row in self._rows)
        cache = DynamicCache()
        cache.layers = [_Window(layer, len(self), self._column - longest, self._column) for layer in self._layers]
        positions = torch.tensor([[row.position] for row in self._rows], device=self._device)
        ids = tokens.view(-1, 1).to(self._device)
        logits = self._extend(ids, positions, cache, keep=1, mask=self._mask(longest))[:, -1].float()
        self._logits = logits.to(self._logits.device)
        self._rows = [row.next() for row in self._rows]
        self._column += 1

    def _mask(self, longest: int) -> Tensor | None:
        """(rows, longest + 1), 0 where a row has padding; None where none has."""
        lengths = [row.length for row in self._rows]
        if min(lengths) == longest:
            return None
        first = torch.tensor([[longest - length] for length in lengths], device=self._device)
        return (torch.arange(longest + 1, device=self._device) >= first).long()

    def _rebuilt(self, rows: Sequence[_Row], like: Entry | None) -> tuple[list[_Layer], int]:
        """New layers with room for so many rows, and as few columns on the left as they allow; old rows are in them."""
        column = max(row.length for row in rows)
        columns = column + min(_SPARE, max(row.room for row in rows))
        size = size_for(len(rows))
        if self._layers:
            grown = [layer.empty(size, columns) for layer in self._layers]
        else:
            assert like is not None
            grown = [_Layer(*layer) for layer in like.entries.each(_empty(size, columns))]
        for old, new in zip(self._layers, grown, strict=bool(self._layers)):
            for number, row in enumerate(self._rows):
                new.put(number, column, *old.get(number, self._column, row.length))
        return grown, column


class _Layer:
    """A layer's keys and values: (rows, key heads, columns, head dim)."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.rows, self.columns = keys.shape[0], keys.shape[2]

    def empty(self, rows: int, columns: int) -> _Layer:
        """Another of its kind."""
        return _Layer(*map(_empty(rows, columns), (self.keys, self.values)))

    def put(self, row: int, column: int, keys: Tensor, values: Tensor) -> None:
        """Write (1, key heads, length, head dim) so that it ends before a column."""
        for side, new in (self.keys, keys), (self.values, values):
            side[row, :, column - new.shape[2] : column] = new[0]

    def get(self, row: int, column: int, length: int) -> tuple[Tensor, Tensor]:
        """What was put there: views (1, key heads, length, head dim)."""
        keys, values = (side[row : row + 1, :, column - length : column] for side in (self.keys, self.values))
        return keys, values


class _Window(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer as transformers sees it during one step: from the first column in use to the new one."""

    def __init__(self, layer: _Layer, rows: int, low: int, column: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._all = layer.keys[:rows, :, low : column + 1], layer.values[:rows, :, low : column + 1]
        self._new = layer.keys[:rows, :, column], layer.values[:rows, :, column]
        self._seen = column - low
        self.keys, self.values = self._all
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one column, and give all."""
        self._new[0].copy_(key_states[:, :, 0])
        self._new[1].copy_(value_states[:, :, 0])
        return self._all

    def get_seq_length(self) -> int:
        """How many columns stand before the new one."""
        return self._seen


def _empty(rows: int, columns: int) -> Callable[[Tensor], Tensor]:
    return lambda like: like.new_zeros(rows, like.shape[1], columns, like.shape[3])


class OneByOne(Slots):
    """Rows that are run one after the other, for models that do not give several at once what they give each alone."""

    def __init__(self, extend: Extend, device: torch.device) -> None:
        self._extend, self._device = extend, device
        self._rows: list[Entry] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def logits(self) -> Tensor:
        """As `Slots.logits`."""
        return torch.cat([row.logits for row in self._rows])

    def join(self, entries: Sequence[Entry]) -> None:
        """As `Slots.join`."""
        self._rows += entries

    def leave(self, row: int) -> None:
        """As `Slots.leave`."""
        self._rows[row] = self._rows[-1]
        self._rows.pop()

    def take(self, row: int) -> Entry:
        """As `Slots.take`."""
        return self._rows[row]

    def step(self, tokens: Tensor) -> None:
        """As `Slots.step`."""
        self._rows = [self._step(row, token) for row, token in zip(self._rows, tokens, strict=True)]

    def _step(self, row: Entry, token: Tensor) -> Entry:
        cache = row.entries.to_cache()
        position = torch.tensor([[row.position]], device=self._device)
        logits = self._extend(token.view(1, 1).to(self._device), position, cache, keep=1)[:, -1].float()
        return Entry(Entries.of_cache(cache), logits.to(row.logits.device), row.position + 1, row.room - 1)
