"""Equal leaves that end with documents."""

import random

import pytest

from homer.plan.windows import windows


def test_one_leaf_where_all_fits() -> None:
    assert windows(10, 12, [0]) == [(0, 10, 0, 10)]


def test_leaves_end_with_parts() -> None:
    leaves = windows(20, 10, [0, 8, 15])
    assert leaves == [(0, 8, 0, 8), (8, 16, 8, 15), (12, 20, 15, 20)]


@pytest.mark.parametrize("seed", range(30))
def test_own_parts_cover_all_once(seed: int) -> None:
    rng = random.Random(seed)
    length, room = rng.randrange(1, 400), rng.randrange(1, 60)
    borders = sorted({0, *(rng.randrange(length) for _ in range(rng.randrange(20)))})
    leaves = windows(length, room, borders)
    assert [leaf.first for leaf in leaves] == [0, *(leaf.last for leaf in leaves[:-1])]
    assert leaves[-1].last == length
    sizes = {leaf.end - leaf.start for leaf in leaves}
    assert len(sizes) == 1
    assert max(sizes) <= room
    for leaf in leaves:
        assert 0 <= leaf.start <= leaf.first < leaf.last <= leaf.end <= length


def test_a_document_is_not_torn_where_it_need_not_be() -> None:
    leaves = windows(100, 40, [0, 30, 60, 90])
    assert [leaf.first for leaf in leaves] == [0, 30, 60]
