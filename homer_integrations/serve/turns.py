"""Turns: whoever computes with one model does so a little at a time, and who has had least time goes next."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch

SLICE = 0.02  # seconds that a prompt is read at a time, where others wait as well
PATIENCE = 0.02  # seconds after which what is urgent goes before all others


class Turns:
    """Shares one model among threads, by the seconds that each has computed.

    What is computed ends its turn every few milliseconds: a prompt that is read, between layers; all streams that
    generate, which go together and have one share, after a token of each. Who joins begins with the time of the one
    that is due, so that newcomers neither wait for all others nor hold them up. Streams are urgent: however many
    prompts are read, and whatever time they have had, they wait for `PATIENCE` and one stretch of layers at most.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Turn] = []
        self._holder: Turn | None = None
        self._due = 0.0  # what the last one to be granted a step had had by then

    def join(self, urgent: bool = False) -> Turn:
        """A share, for one prompt that is read, or for all that generate, which is urgent."""
        return Turn(self, urgent)

    def _take(self, turn: Turn) -> None:
        with self._lock:
            turn.seconds = max(turn.seconds, self._due)  # time away saves nothing up
            self._wait(turn)
            if self._holder is None:
                self._grant()
        turn.granted.wait()

    def _leave(self, turn: Turn, seconds: float) -> None:
        with self._lock:
            turn.seconds += seconds
            self._grant()

    def _exchange(self, turn: Turn, seconds: float) -> bool:
        """Whether the turn stays where it is, since nobody who waits is to go first."""
        with self._lock:
            turn.seconds += seconds
            if self._rival(turn) is None:
                self._due = max(self._due, turn.seconds)
                return True
            self._wait(turn)
            self._grant()
            return False

    def _wait(self, turn: Turn) -> None:
        turn.granted.clear()
        turn.since = time.perf_counter()
        self._waiting.append(turn)

    def _rival(self, turn: Turn, seconds: float = 0.0) -> Turn | None:
        """Who is to go before a turn that computes, and has done so for `seconds` more than was counted."""
        now, waiting = time.perf_counter(), list(self._waiting)
        urgent = [other for other in waiting if other.urgent]
        overdue = [other for other in urgent if now - other.since >= PATIENCE]
        others = waiting if now - turn.since >= SLICE else urgent
        rivals = overdue or [other for other in others if other.seconds < turn.seconds + seconds]
        return min(rivals, key=lambda other: other.seconds, default=None)

    def _grant(self) -> None:
        now = time.perf_counter()
        overdue = [turn for turn in self._waiting if turn.urgent and now - turn.since >= PATIENCE]
        self._holder = min(overdue or self._waiting, key=lambda turn: turn.seconds, default=None)
        if self._holder is not None:
            self._waiting.remove(self._holder)
            self._due = max(self._due, self._holder.seconds)
            self._holder.since = now
            self._holder.granted.set()


class Pace:
    """Keeps a program at most so many steps ahead of its GPU: what is begun there cannot be put off any more."""

    def __init__(self, device: torch.device, steps: int = 4) -> None:
        cuda = device.type == "cuda"
        self._events: list[Any] = [torch.cuda.Event() for _ in range(steps)] if cuda else []  # type: ignore[no-untyped-call]
        self._step = 0

    def keep(self) -> None:
        """End a step: wait until the one before so many has been done. Does nothing on a CPU."""
        if self._events:
            event = self._events[self._step % len(self._events)]
            event.synchronize()  # at once where it was never recorded
            event.record()
            self._step += 1


class Turn:
    """One stream's share. As a context manager it computes; in between, `pass_on` lets others go first.

    Attributes:
        urgent: whether it is let in after `PATIENCE`, whatever it has had.
        seconds: that it has computed.
        since: when it began to compute, or to wait.
    """

    def __init__(self, turns: Turns, urgent: bool = False) -> None:
        self.urgent = urgent
        self.seconds = self.since = 0.0
        self.granted = threading.Event()
        self._turns = turns
        self._counted = 0.0

    def __enter__(self) -> Turn:
        self._turns._take(self)
        self._counted = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns._leave(self, time.perf_counter() - self._counted)

    @property
    def wanted(self) -> bool:
        """Whether `pass_on` will let another go first."""
        return bool(self._turns._waiting) and self._turns._rival(self, time.perf_counter() - self._counted) is not None

    def pass_on(self) -> None:
        """End a step: who is to go first does, and this returns when it is this one's turn again."""
        now = time.perf_counter()
        if not self._turns._exchange(self, now - self._counted):
            self.granted.wait()
            now = time.perf_counter()
        self._counted = now

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Others compute meanwhile, since this one waits for a disk or the like."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()
