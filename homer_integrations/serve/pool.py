"""Pool: where a server's process has its memory from, and that what it has freed goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable
from typing import Any

_LIMITS = {"MALLOC_ARENA_MAX": (-8, 1), "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 20)}  # by which glibc's mallopt knows them
_AFTER = 5.0  # seconds in which nobody asks for what lies free


def settle_pool() -> None:
    """Let all threads of this process allocate from one pool, and large tensors from none, if the C library is glibc.

    Else each of a server's many threads gets a pool of its own, in which what it has freed is of no use to others; and
    compact caches, which live long, leave holes between what lives short. What an environment variable says stays.
    """
    set_limit = _of_library("mallopt")
    for name, (number, limit) in _LIMITS.items():
        if set_limit is not None and name not in os.environ:
            set_limit(number, limit)


def settle_garbage() -> None:
    """Have Python's garbage collector look no more through what this process holds by now, all of which stays.

    Else it looks through the modules and the model again and again, and holds up every request meanwhile.
    """
    gc.collect()
    gc.freeze()


class GivingBack:
    """Gives back to the system what lies free in a pool, once nothing runs; while something does, it is used again.

    Args:
        after: seconds from `rest` on, in which `work` may call it off.
        give: what gives back; None for glibc's own. With other C libraries nothing is done.
    """

    def __init__(self, after: float = _AFTER, give: Callable[[], object] | None = None) -> None:
        trim = _of_library("malloc_trim")
        self._after = after
        self._give = give if give is not None or trim is None else lambda: trim(0)
        self._timer: threading.Timer | None = None

    def rest(self) -> None:
        """Nothing runs any more. For the thread that calls `work` as well."""
        self.work()
        if self._give is not None:
            self._timer = threading.Timer(self._after, self._give)  # a thread of its own: nobody waits for it
            self._timer.daemon = True
            self._timer.start()

    def work(self) -> None:
        """Something runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _of_library(name: str) -> Callable[..., Any] | None:
    """A function of the C library; None where it has none of this name."""
    try:
        found: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
    return found
