"""Locks that are free in a process that was forked off: whichever thread held one did not come along."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol


class Renewable(Protocol):
    """What holds a thread that may not come along."""

    def renew(self) -> None:
        """Forget whoever holds it."""


_KNOWN: weakref.WeakSet[Renewable] = weakref.WeakSet()


class Lock:
    """A lock that the same thread may take again, renewed in every forked child."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget whoever holds it."""
        self._lock = threading.RLock()

    def acquire(self) -> bool:
        """Take it, once nobody else has it."""
        return self._lock.acquire()

    def release(self) -> None:
        """Give it back."""
        self._lock.release()

    def __enter__(self) -> Lock:
        self._lock.acquire()
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.release()


def renew_after_fork(known: Renewable) -> None:
    """Have this renewed in every forked child, as long as it is there."""
    _KNOWN.add(known)


def _renew() -> None:
    for known in list(_KNOWN):
        known.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
