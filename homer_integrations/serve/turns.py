"""Turns: whoever computes with one model does so one step at a time, and who has had least time goes next."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from types import TracebackType


class Turns:
    """Shares one model among threads, by the seconds that each has computed.

    A step is one node of a tree, or one token of all streams that generate, which go together and have one share.
    Since that takes less time than a node, they go on between any two nodes of a long prompt. Who joins begins with
    the time of the one that is due, so that newcomers neither wait for all others nor hold them up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Turn] = []
        self._holder: Turn | None = None
        self._due = 0.0  # what the last one to be granted a step had had by then

    def join(self) -> Turn:
        """A share, for one prompt that is read, or for all that generate."""
        return Turn(self)

    def _take(self, turn: Turn) -> None:
        with self._lock:
            turn.seconds = max(turn.seconds, self._due)  # time away saves nothing up
            turn.granted.clear()
            self._waiting.append(turn)
            if self._holder is None:
                self._grant()
        turn.granted.wait()

    def _leave(self, turn: Turn, seconds: float) -> None:
        with self._lock:
            turn.seconds += seconds
            self._grant()

    def _exchange(self, turn: Turn, seconds: float) -> bool:
        """Whether the turn stays where it is, since nobody who waits has had less time."""
        with self._lock:
            turn.seconds += seconds
            if all(other.seconds >= turn.seconds for other in self._waiting):
                self._due = max(self._due, turn.seconds)
                return True
            turn.granted.clear()
            self._waiting.append(turn)
            self._grant()
            return False

    def _grant(self) -> None:
        self._holder = min(self._waiting, key=lambda turn: turn.seconds, default=None)
        if self._holder is not None:
            self._waiting.remove(self._holder)
            self._due = max(self._due, self._holder.seconds)
            self._holder.granted.set()


class Turn:
    """One stream's share. As a context manager it computes; in between, `pass_on` lets others go first."""

    def __init__(self, turns: Turns) -> None:
        self.seconds = 0.0
        self.granted = threading.Event()
        self._turns = turns
        self._since = 0.0

    def __enter__(self) -> Turn:
        self._turns._take(self)
        self._since = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns._leave(self, time.perf_counter() - self._since)

    @property
    def wanted(self) -> bool:
        """Whether others wait for it."""
        return bool(self._turns._waiting)

    def pass_on(self) -> None:
        """End a step: whoever has had less time goes first, and this returns when it is this one's turn again."""
        if not self._turns._exchange(self, time.perf_counter() - self._since):
            self.granted.wait()
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Others compute meanwhile, since this one waits for a disk or the like."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()
