import itertools

import pytest

from homer.plan.owners import owners
from homer.plan.schedule import MergePlan, plan_merge


def plan(context_len: int, document_lens: list[int] | None = None) -> MergePlan:
    settings = {"layers": 12, "max_chunk_len": 32, "target_len": 32, "layers_warmup": 4}
    return plan_merge(4, context_len, 5, document_lens=document_lens, **settings)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_each_of_2_to_the_k_devices_gets_one_subtree(devices: int) -> None:
    tree = plan(64 * 23)
    made = owners(tree, devices)
    assert [len(row) for row in made] == [64, 32, 16, 8, 4, 2, 1]
    assert list(made[0]) == [leaf * devices // 64 for leaf in range(64)]
    for level in range(1, tree.height):  # the left one of two subtrees of a size stays
        assert list(made[level]) == list(made[level - 1][::2])
    assert made[-1] == (0,)


@pytest.mark.parametrize("devices", [2, 3, 5, 7])
@pytest.mark.parametrize("lens", [[23] * 50, [1, 60, 3, 23, 23, 90, 2, 14, 14, 200, 7], [5, 5]])
def test_stretches_are_even_and_nodes_run_where_their_children_are(devices: int, lens: list[int]) -> None:
    tree = plan(sum(lens), lens)
    made = owners(tree, devices)
    assert list(made[0]) == sorted(made[0])  # in stretches
    assert set(made[0]) <= set(range(devices))
    for level in range(1, tree.height + 1):
        for index, owner in enumerate(made[level]):
            below = [made[level - 1][child] for child in tree.children(level, index)]
            assert owner in below or level == tree.height
            assert len(set(below)) > 1 or owner == below[0] or level == tree.height
    work = [sum(n for n, own in zip(tree.lengths[0], made[0], strict=True) if own == d) for d in range(devices)]
    assert max(work) <= sum(work) / devices + 2 * 32


def test_the_smaller_child_is_moved() -> None:
    tree = plan(23 + 3, [3, 23])
    assert owners(tree, 2)[0] == (0, 1)
    wide = plan(23 * 3 + 4, [4, 23, 23, 23])
    made = owners(wide, 2)
    for level, index in itertools.product((1,), range(2)):
        children = list(wide.children(level, index))
        sizes = [wide.targets[0][child] for child in children]
        assert made[1][index] == made[0][children[sizes.index(max(sizes))]]


def test_one_device_or_one_leaf_has_all() -> None:
    assert set(itertools.chain(*owners(plan(500), 1))) == {0}
    assert owners(plan(20), 3) == ((0,),)
