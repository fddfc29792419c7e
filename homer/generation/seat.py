"""Seat: one request's tokens out of a batch; and Row, what the batch knows of it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from homer.backends.slots import Entry
from homer.generation.choosing import Chooser
from homer.generation.scores import Score

AHEAD = 16  # tokens that wait for a slow reader before its stream rests


class Row:
    """One request in a batch. It knows nothing of its seat, so that a seat that nobody holds any more is collected.

    Attributes:
        entry: what it joins by; None while it runs, and when it has ended.
        entered: whether it waits for a slot or has one.
        chosen: a token that has still to be run.
        tokens: those that were not read yet.
        scores: of all tokens so far, where they are wanted.
        left: how many more may come.
        done: whether no more come.
        error: what ended it.
    """

    def __init__(self, entry: Entry, chooser: Chooser, end_ids: frozenset[int]) -> None:
        self.entry: Entry | None = entry
        self.chooser, self.end_ids, self.left = chooser, end_ids, entry.room
        self.tokens: deque[int] = deque()
        self.scores: list[Score] = []
        self.chosen: int | None = None
        self.error: Exception | None = None
        self.entered = self.done = False
        self.bell = threading.Lock()  # free when rung
        self.bell.acquire()

    @property
    def wants_slot(self) -> bool:
        """Whether it is new, or has rested until half of what waited was read."""
        return self.entry is not None and not self.entered and not self.done and len(self.tokens) <= AHEAD // 2

    def give(self, token: int, score: Score | None = None) -> None:
        """One more token."""
        if score is not None:
            self.scores.append(score)  # first, so that who has the token finds it
        self.tokens.append(token)
        self.left -= 1
        self.done = self.left < 1 or token in self.end_ids or self.chooser.finished

    def fail(self, error: Exception) -> None:
        """It has ended by an error."""
        self.error, self.done = error, True
        self.free()

    def free(self) -> None:
        """It has no slot any more."""
        self.entered = False
        if self.done:
            self.entry = None

    def ring(self) -> None:
        """Wake the thread that waits, if one does."""
        if self.bell.locked():
            self.bell.release()

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """What goes wrong in it is this row's alone."""
        try:
            yield
        except Exception as error:
            self.error, self.done = error, True


class Seats(Protocol):
    """What a seat knows of a batch."""

    def next(self, row: Row) -> int | None:
        """A row's next token; None where no more come."""

    def enter(self, row: Row) -> None:
        """A row wants its slot now."""

    def leave(self, row: Row) -> None:
        """A row gets no more tokens."""


class Seat(Iterator[int]):
    """The tokens of one request, as they are asked for. `leave` may be called from any thread, and frees its slot.

    Attributes:
        scores: of each token that was given, where they are wanted.
    """

    def __init__(self, batch: Seats, row: Row) -> None:
        self._batch, self._row = batch, row
        self.scores = row.scores
        self._left = False

    def __next__(self) -> int:
        token = None if self._left else self._batch.next(self._row)
        if token is None or self._left:
            raise StopIteration
        return token

    def enter(self) -> None:
        """Want a slot now, before the first token is asked for."""
        self._batch.enter(self._row)

    def leave(self) -> None:
        """No more tokens are wanted."""
        self._left = True
        self._batch.leave(self._row)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            with contextlib.suppress(Exception):
                self.leave()
