"""Picking: which units of documents stay within a budget, whole, with the headers of rows and what marks gaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from homer.text.units import Unit

_MISSES = 8  # so many parts may not fit, before what is left of the room stays empty: it would be filled with crumbs


class Picker:
    """Picks units of documents; a unit that does not fit is not picked, and the next one may.

    Args:
        documents: the units of every document.
        tokens: how many tokens each unit takes, all documents' in a row.
        marker: tokens of what stands where something is left out.
        room: tokens that there are; None: no limit.
    """

    def __init__(
        self, documents: Sequence[Sequence[Unit]], tokens: Sequence[int], marker: int, room: int | None
    ) -> None:
        self._tokens, self._marker, self._room = tokens, marker, room
        self._spans: list[tuple[int, int]] = []  # of every unit, where its document begins and ends
        self._headers: list[int | None] = []
        for units in documents:
            first = len(self._spans)
            self._spans += [(first, first + len(units))] * len(units)
            self._headers += [None if unit.header is None else first + unit.header for unit in units]
        self._kept = [False] * len(tokens)
        self._begun: dict[int, int] = {}
        self._picks: list[list[int]] = []
        self._used = 0

    def pick(self, groups: Iterable[Sequence[int]], most: int | None = None) -> None:
        """Pick groups of units, each whole or not at all, the best one first, `most` of them at most."""
        misses = 0
        for group in groups:
            if misses == _MISSES or len(self._picks) == most:
                return
            misses += not self._add(group)

    def drop(self) -> list[int]:
        """Give back what was picked last: the numbers of its units. There must be something."""
        units = self._picks.pop()
        self._used += sum(self._put(unit, False) for unit in reversed(units))
        return units

    def kept(self, first: int, end: int) -> list[int]:
        """Which units of a document stay, counted from its first."""
        return [number - first for number in range(first, end) if self._kept[number]]

    def _add(self, group: Sequence[int]) -> bool:
        headers = {header for unit in group if (header := self._headers[unit]) is not None}
        new = sorted(unit for unit in headers.union(group) if not self._kept[unit])
        cost = sum(self._put(unit, True) for unit in new)
        if self._room is not None and self._used + cost > self._room:
            for unit in reversed(new):
                self._put(unit, False)
            return False
        self._used += cost
        self._picks.append(new)
        return True

    def _put(self, unit: int, kept: bool) -> int:
        """Keep a unit, or no longer; how many tokens more that takes."""
        first, end = self._spans[unit]
        sides = (unit > first and not self._kept[unit - 1]) + (unit + 1 < end and not self._kept[unit + 1])
        count = self._begun.get(first, 0) - (not kept)
        gaps = sides - (count > 0)  # it parts one gap in so many, or makes the first of its document
        self._kept[unit], self._begun[first] = kept, count + kept
        cost = self._tokens[unit] + self._marker * gaps
        return cost if kept else -cost
