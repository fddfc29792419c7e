"""Documents that come as an iterator: read once, and the same for everybody who asks."""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from homer import InputError, Lock


class _Read:
    """The items of one generator, from the first time they are asked for."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._items: tuple[Any, ...] | None = None

    def of(self, generator: Iterator[Any]) -> tuple[Any, ...]:
        with self._lock:
            if self._items is None:
                self._items = _all_of(generator)
            return self._items


_READ: weakref.WeakKeyDictionary[types.GeneratorType[Any, Any, Any], _Read] = weakref.WeakKeyDictionary()
_LOCK = Lock()


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
