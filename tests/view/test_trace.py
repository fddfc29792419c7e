"""Stretches that came equally far, told from tokens' borders, are those told character by character."""

import itertools
import random

import torch

from homer.view.trace import _stretches

Stretches = tuple[tuple[int, int, int], ...]


def told(lengths: list[int], rows: list[tuple[int, int, int, int]]) -> list[Stretches]:
    """By every single character: the furthest token on it; else the character before; else the first that is known."""
    found = []
    for number, length in enumerate(lengths):
        levels: list[int | None] = [None] * length
        for _, start, end, level in (row for row in rows if row[0] == number):
            for place in range(start, end):
                levels[place] = max(level, levels[place] or 0)
        known = next((level for level in levels if level is not None), 0)
        for place, level in enumerate(levels):
            known = level if level is not None else known
            levels[place] = known
        stretches, start = [], 0
        for level, same in itertools.groupby(levels):
            end = start + len(list(same))
            stretches.append((start, end, level or 0))
            start = end
        found.append(tuple(stretches))
    return found


def test_stretches_of_tokens_of_all_kinds() -> None:
    draw = random.Random(0)
    for _ in range(400):
        lengths = [draw.choice([0, 1, 2, 5, 20]) for _ in range(draw.randrange(1, 6))]
        rows = []
        for number, length in enumerate(lengths):
            for _ in range(draw.randrange(8) if length else 0):
                start = draw.randrange(length)
                rows.append((number, start, draw.randrange(start + 1, length + 1), draw.randrange(4)))
        table = torch.tensor(rows, dtype=torch.long).view(-1, 4)
        ours = _stretches(torch.tensor(lengths), table[:, 0], table[:, 1:3], table[:, 3])
        assert ours == told(lengths, rows)
