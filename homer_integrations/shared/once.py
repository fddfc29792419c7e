"""Documents that come as an iterator: read once, and the same for everybody who asks."""

from __future__ import annotations

import os
import threading
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from homer import InputError


class _Read:
    """The items of one generator, from the first time they are asked for."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._items: tuple[Any, ...] | None = None

    def of(self, generator: Iterator[Any]) -> tuple[Any, ...]:
        with self._lock:
            if self._items is None:
                self._items = _all_of(generator)
            return self._items


_READ: weakref.WeakKeyDictionary[types.GeneratorType[Any, Any, Any], _Read] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def items_of(documents: Iterable[Any]) -> tuple[Any, ...]:
    """All documents; those of a generator are remembered as long as it lives, for the calls that get it again.

    Raises:
        InputError: an iterator with nothing left, which would answer without any document.
    """
    if not isinstance(documents, types.GeneratorType):
        return _all_of(documents)
    with _LOCK:
        read = _READ.setdefault(documents, _Read())
    return read.of(documents)


def _all_of(documents: Iterable[Any]) -> tuple[Any, ...]:
    items = tuple(documents)
    if not items and isinstance(documents, Iterator):
        raise InputError(
            f"documents is a {type(documents).__name__} with 0 documents left, perhaps read before: give a list"
        )
    return items


def _renew() -> None:
    """After a fork: a thread that held the lock did not come along."""
    global _LOCK
    _LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
