"""Owners: which of several devices runs which node of a tree."""

from __future__ import annotations

from homer.plan.schedule import MergePlan

_PARTS = 8  # subtrees a device, so that the shares of any number of devices differ little


def owners(plan: MergePlan, devices: int) -> tuple[tuple[int, ...], ...]:
    """The device, 0 to devices - 1, of every node, by level, leaves first.

    The tree is cut at a level with some nodes for every device. What is below is spread in stretches of equal work, so
    that siblings lie together; a node above runs where its children are, or where the larger of two is, and the root on
    the first device.
    """
    cut = next((n for n in range(plan.height, 0, -1) if len(plan.lengths[n]) >= _PARTS * devices), 0)
    rows: list[tuple[int, ...]] = [_stretches(_work(plan, cut), devices)]
    for level in range(cut, 0, -1):
        rows.insert(0, tuple(owner for index, owner in enumerate(rows[0]) for _ in plan.children(level, index)))
    for level in range(cut + 1, plan.height + 1):
        rows.append(tuple(_above(plan, level, index, rows[-1]) for index in range(len(plan.lengths[level]))))
    return (*rows[:-1], (0,))


def _work(plan: MergePlan, level: int) -> list[int]:
    """Tokens of all leaves below every node of a level, whose share of the work is about theirs."""
    work = list(plan.lengths[0])
    for above in range(1, level + 1):
        families = (plan.children(above, index) for index in range(len(plan.lengths[above])))
        work = [sum(work[child] for child in family) for family in families]
    return work


def _stretches(work: list[int], devices: int) -> tuple[int, ...]:
    """The device of each of several parts in a row, by where the middle of its work lies."""
    total, devices, done, found = sum(work), min(devices, len(work)), 0, []
    for part in work:
        found.append((2 * done + part) * devices // (2 * total))
        done += part
    return tuple(found)


def _above(plan: MergePlan, level: int, index: int, below: tuple[int, ...]) -> int:
    """The device of a node by those of its children, of which the smaller one is moved."""
    largest = max(plan.children(level, index), key=plan.targets[level - 1].__getitem__)  # of equals the left one
    return below[largest]
