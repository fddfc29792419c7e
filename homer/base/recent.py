"""Recent: values by key, of which those stay that were used last, within a limit."""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values by key; those that were not used for the longest time leave first. For one thread at a time.

    Args:
        limit: most of what `size` counts, all values together.
        size: of one value; unless given, values are counted.
    """

    def __init__(self, limit: int, size: Callable[[Value], int] = lambda value: 1) -> None:
        self.limit, self.held, self._size = limit, 0, size
        self._values: collections.OrderedDict[Key, Value] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def fits(self, value: Value) -> bool:
        """Whether a value could be put without another one leaving."""
        return self.held + self._size(value) <= self.limit

    def get(self, key: Key) -> Value | None:
        """The value of a key, which counts as used now; None where there is none."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Key, value: Value) -> list[tuple[Key, Value]]:
        """Take a value; gives those that left for it, or itself where it is larger than all the room."""
        if key in self._values:
            self.held -= self._size(self._values.pop(key))
        if self._size(value) > self.limit:
            return [(key, value)]
        self._values[key] = value
        self.held += self._size(value)
        left: list[tuple[Key, Value]] = []
        while self.held > self.limit:
            left.append(self._values.popitem(last=False))
            self.held -= self._size(left[-1][1])
        return left

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self.held = 0
