"""Shares: what every node holds and keeps fits its chunk, and nothing is shared out twice."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homer.plan.shares import Tree, children_of


@given(st.integers(1, 200), st.integers(1, 200))
def test_every_child_has_one_parent(below: int, nodes: int) -> None:
    families = [children_of(below, nodes, index) for index in range(nodes)]
    assert list(itertools.chain(*families)) == list(range(below))
    assert max(map(len, families)) - min(map(len, families)) <= 1


@given(st.integers(0, 5), st.integers(1, 40), st.integers(1, 60), st.data())
def test_what_is_held_fits_and_what_is_kept_was_held(height: int, room: int, target: int, data: st.DataObject) -> None:
    room = max(room, 2)
    leaves = data.draw(st.lists(st.integers(1, room), min_size=2**height, max_size=2**height))
    held, kept = Tree([(level, level + 1) for level in range(height + 1)], room, leaves).fill(min(target, room))
    assert held[0] == leaves
    for level in range(height + 1):
        assert all(k <= h <= room for k, h in zip(kept[level], held[level], strict=True))
    for level in range(height):
        pairs = [sum(kept[level][2 * i : 2 * i + 2]) for i in range(len(held[level + 1]))]
        assert pairs == held[level + 1]


@pytest.mark.parametrize(("leaves", "kept"), [([8, 8], [4, 4]), ([8, 2], [6, 2]), ([2, 8], [2, 6]), ([3, 3], [3, 3])])
def test_where_one_child_is_short_the_other_keeps_more(leaves: list[int], kept: list[int]) -> None:
    assert Tree([(0, 1), (1, 2)], 8, leaves).fill(8)[1][0] == kept
