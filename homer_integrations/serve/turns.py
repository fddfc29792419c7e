"""Turns: whoever computes with one model does so a little at a time, and who has had least time goes next."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import torch

SLICE = 0.03  # seconds that a prompt is read at a time, where others wait as well


class Turns:
    """Shares one model among threads: each computes for `SLICE` at a time, and then who has had least time goes on.

    What is computed is asked every few milliseconds whether its time is over: a prompt that is read, between layers;
    all streams that generate, which go together, after a token of each. Streams are urgent: they come after any
    slice, however many prompts are read and whatever time they have had, and so wait for a slice and what is under
    way at its end. Who joins begins with the time of the prompt that is due, so that newcomers neither wait for all
    others nor hold them up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Turn] = []
        self._holder: Turn | None = None
        self._due = 0.0  # what the last prompt to be let in had had by then

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
        self._waiting.append(turn)

    def _rival(self, turn: Turn, seconds: float = 0.0) -> Turn | None:
        """Who is to go before a turn that computes, and has done so for `seconds` more than was counted."""
        if time.perf_counter() - turn.since < SLICE:
            return None  # a GPU's time is counted for who waits for it, so that counts alone would let in too many
        first = self._first()
        return first if first is not None and (first.urgent or first.seconds < turn.seconds + seconds) else None

    def _first(self) -> Turn | None:
        """Of those that wait, who is next."""
        return min(list(self._waiting), key=lambda turn: (not turn.urgent, turn.seconds), default=None)

    def _grant(self) -> None:
        self._holder = self._first()
        if self._holder is not None:
            self._waiting.remove(self._holder)
            if not self._holder.urgent:
                self._due = max(self._due, self._holder.seconds)
            self._holder.since = time.perf_counter()
            self._holder.granted.set()


class Pace:
    """Keeps a program at most so many steps ahead of its GPU: what is begun there cannot be put off any more."""

    def __init__(self, device: torch.device, steps: int = 3) -> None:
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
        urgent: whether it is let in after any slice, whatever it has had.
        seconds: that it has computed.
        since: when it was last let in.
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
    def computes(self) -> bool:
        """Whether it is this one that was let in."""
        return self._turns._holder is self

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
