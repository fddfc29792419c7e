"""Pool: where a server's process has its memory from, and that what it has freed goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

_ARENA_MAX = -8  # of glibc's mallopt
EVERY = 5.0  # seconds: giving back takes some milliseconds, and what is given back is asked for again


def share_one_pool() -> None:
    """Let all threads of this process allocate from one pool, where the C library is glibc and nobody said otherwise.

    Else each of a server's many threads gets a pool of its own, in which what it has freed is of no use to others.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


class GivingBack:
    """Gives back what lies free between pieces in use, which a C library keeps: a pool then holds what is used.

    Compact caches live long and all else is short, so that after an hour half of a pool would be holes.

    Args:
        every: seconds from the first call of `soon` to what it asks for, and so between two times at least.
        give: what gives back; None for glibc's own, where that is the C library. Else nothing is done.
    """

    def __init__(self, every: float = EVERY, give: Callable[[], object] | None = None) -> None:
        self._every, self._give = every, give or _of_glibc()
        self._lock, self._waits = threading.Lock(), False

    def soon(self) -> None:
        """Something was freed. Any thread may say so, and as often as it likes."""
        with self._lock:
            if self._give is None or self._waits:
                return
            self._waits = True
        timer = threading.Timer(self._every, self._now)  # a thread of its own: nobody waits for it
        timer.daemon = True
        timer.start()

    def _now(self) -> None:
        with self._lock:
            self._waits = False
        if self._give is not None:
            self._give()


def _of_glibc() -> Callable[[], object] | None:
    """Its function that gives all free pages back; None for other libraries."""
    try:
        trim: Any = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return lambda: trim(0)
