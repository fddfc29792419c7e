"""Slots: the keys and values of requests that run, side by side, so that one step gives every one its next token."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

from torch import Tensor

from homer.backends.entries import Entries

SIZES = (1, 2, 4, 8, 16, 32)  # rows come in groups of so many


@dataclasses.dataclass(frozen=True)
class Entry:
    """A request outside a batch: before it joins, or while it rests.

    Attributes:
        entries: of all layers, in a batch of one; they are left as they are.
        logits: (1, vocabulary), float32, of its next token.
        position: position id of its next token.
        room: how many more tokens may come.
    """

    entries: Entries
    logits: Tensor
    position: int
    room: int

    @property
    def length(self) -> int:
        """Columns that its keys take now."""
        return self.entries.length


class Slots(abc.ABC):
    """Rows that go on together, each with its own length and position. For one thread at a time."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @property
    @abc.abstractmethod
    def logits(self) -> Tensor:
        """(rows, vocabulary), float32, of every row's next token; the next step may overwrite them."""

    @abc.abstractmethod
    def join(self, entries: Sequence[Entry]) -> None:
        """Put requests behind the last row. Where memory does not do, nothing has changed."""

    @abc.abstractmethod
    def leave(self, row: int) -> None:
        """Take a row out; the last one becomes that row."""

    def stays(self) -> bool:
        """Whether this is to be kept while there are no rows, since it holds little that costs much to make."""
        return False

    @abc.abstractmethod
    def take(self, row: int) -> Entry:
        """A row as it is now, to join again later."""

    @abc.abstractmethod
    def step(self, tokens: Tensor) -> None:
        """Run one more token (rows,) of every row, on any device; `logits` are those of the next ones."""


def size_for(rows: int) -> int:
    """The least size that holds so many rows."""
    return next(size for size in SIZES if size >= rows)
