"""Shares: how many context tokens every node of a tree holds and keeps, so that each fits its chunk."""

from __future__ import annotations

from collections.abc import Sequence


class Tree:
    """Context tokens (affix left out) that every node of the tree holds and keeps."""

    def __init__(self, ranges: Sequence[tuple[int, int]], room: int, leaves: list[int]) -> None:
        self.prunes = [end > first for first, end in ranges]
        self.height = len(ranges) - 1
        self.room = room
        self.held = [leaves]
        self.kept: list[list[int]] = []

    def fill(self, target: int) -> tuple[list[list[int]], list[list[int]]]:
        """Tokens held and tokens kept, by level, where the root keeps `target` at most."""
        for level in range(1, self.height + 1):
            self.held.append(self._hold(level))
        self.kept = [[min(target, self.held[-1][0])]]
        for level in range(self.height, 0, -1):
            self.kept.insert(0, self._keep(level, self.kept[0]))
            if not self.prunes[level - 1]:  # without layers nothing is scored: its children must drop for it
                self.held[level - 1] = self.kept[0]
        return self.held, self.kept

    def _hold(self, level: int) -> list[int]:
        """What the nodes of a level hold, from what their children hold."""
        families = self._families(level)
        if self.prunes[level]:
            return [sum(_share(self.room, family)) for family in families]
        return [sum(family) for family in families]  # all that its children have, until it is told what they keep

    def _keep(self, level: int, budgets: list[int]) -> list[int]:
        """What the children of a level's nodes keep, where the nodes themselves keep `budgets`."""
        families = self._families(level)
        if self.prunes[level]:
            shares = [_share(self.room, family) for family in families]
        else:
            shares = [_split(budget, family) for budget, family in zip(budgets, families, strict=True)]
        return [n for share in shares for n in share]

    def _families(self, level: int) -> list[list[int]]:
        """What the children of every node of a level hold."""
        row, nodes = self.held[level - 1], 2 ** (self.height - level)
        return [[row[child] for child in children_of(len(row), nodes, index)] for index in range(nodes)]


def _share(room: int, family: list[int]) -> tuple[int, ...]:
    """What children keep so that their parent fits `room`: half each; one more where the other is short."""
    if len(family) == 1:
        return (min(room, *family),)
    (left, right), half = family, room // 2
    if right < half:
        return min(left, room - right), right
    if left < half:
        return left, min(right, room - left)
    return min(left, half), half


def _split(budget: int, family: list[int]) -> tuple[int, ...]:
    """`budget` shared out between children to the last token, since their parent cannot prune."""
    if len(family) == 1:
        return (budget,)
    left, right = family
    right_share = min(right, max(budget // 2, budget - left))
    return min(left, budget - right_share), right_share


def children_of(below: int, nodes: int, index: int) -> range:
    """Which of `below` children belong to node `index` of `nodes`, spread evenly."""
    return range(index * below // nodes, (index + 1) * below // nodes)
