"""Which leaves run together, and how many fill a GPU."""

import itertools

import pytest

from homer.plan.batches import filling, leaves_at_once, together
from homer.plan.owners import owners
from homer.plan.schedule import MergePlan, plan_merge


def plan(context_len: int, document_lens: list[int] | None = None, chunk: int = 32) -> MergePlan:
    settings = {"layers": 12, "max_chunk_len": chunk, "target_len": chunk, "layers_warmup": 4}
    return plan_merge(4, context_len, 5, document_lens=document_lens, **settings)


def test_only_equal_neighbours_run_together() -> None:
    assert together([7, 7, 7, 5, 5, 7], 2) == [[0, 1], [2], [3, 4], [5]]
    assert together([7] * 4, 16) == [[0, 1, 2, 3]]
    assert together([], 4) == []


@pytest.mark.parametrize(
    ("hidden_size", "length", "count", "found"),
    [
        (4096, 2048, 32, 2),  # 4,096 rows
        (4096, 2049, 32, 1),
        (4096, 1110, 64, 2),
        (4096, 328, 64, 8),
        (1536, 1110, 64, 8),
        (576, 2685, 16, 8),
        (256, 300, 256, 16),  # 218 would
        (256, 300, 5, 4),
        (256, 300, 1, 1),
        (256, 300, 0, 1),
        (8192, 4096, 64, 1),  # one is more than fills it
    ],
)
def test_as_many_as_fill_a_gpu(hidden_size: int, length: int, count: int, found: int) -> None:
    assert filling(hidden_size, length, count) == found


@pytest.mark.parametrize("devices", range(1, 9))
@pytest.mark.parametrize("lens", [None, [23] * 50, [1, 60, 3, 23, 23, 90, 2, 14, 14, 200, 7], [5, 5]])
def test_no_batch_is_run_by_two_devices(devices: int, lens: list[int] | None) -> None:
    tree = plan(1400 if lens is None else sum(lens), lens)
    size, owner = leaves_at_once(tree, 256, devices), owners(tree, devices)[0]
    batches = together(tree.lengths[0], size)
    assert all(len({owner[leaf] for leaf in batch}) == 1 for batch in batches)
    assert list(itertools.chain(*batches)) == list(range(len(tree.spans)))
    if devices == 1:
        assert size == filling(256, max(tree.lengths[0]), len(tree.spans))


def test_two_to_the_k_devices_with_leaves_enough_change_nothing() -> None:
    tree = plan(64 * 23)
    assert [leaves_at_once(tree, 256, devices) for devices in (1, 2, 4, 8, 16)] == [16, 16, 16, 8, 4]
    assert leaves_at_once(tree, 256, 3) == 2  # pairs of leaves do not part evenly
    assert leaves_at_once(plan(20), 256, 2) == 1
