import itertools
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homer import ConfigError, InputError, MergePlan, plan_merge
from homer.plan.layers import layer_ranges
from homer.plan.schedule import longer_leaf
from homer.plan.spans import split_context


@st.composite
def inputs(draw: st.DrawFn) -> dict[str, int]:
    prefix, suffix = draw(st.integers(0, 40)), draw(st.integers(1, 40))
    context = draw(st.one_of(st.integers(1, 3000), st.integers(1, 10_000_000)))
    smallest = max(2, -(-context // 2**13))  # at most 2^14 leaves, so that the test is quick
    room = draw(st.integers(smallest, max(smallest, 5000)))
    layers = draw(st.integers(2, 100))
    return {
        "prefix_len": prefix,
        "context_len": context,
        "suffix_len": suffix,
        "layers": layers,
        "layers_warmup": draw(st.integers(0, layers - 1)),
        "max_chunk_len": prefix + suffix + room,
        "target_len": prefix + suffix + draw(st.integers(1, 6000)),
    }


def make(arguments: dict[str, Any]) -> MergePlan:
    arguments = dict(arguments)
    lengths = [arguments.pop(name) for name in ("prefix_len", "context_len", "suffix_len")]
    return plan_merge(*lengths, **arguments)


@settings(max_examples=300, deadline=None)
@given(inputs())
def test_every_plan_is_sound(arguments: dict[str, int]) -> None:
    context, affix = arguments["context_len"], arguments["prefix_len"] + arguments["suffix_len"]
    chunk, target, layers = arguments["max_chunk_len"], arguments["target_len"], arguments["layers"]
    plan = make(arguments)
    starts, ends = zip(*plan.spans, strict=True)
    assert starts[0] == 0
    assert ends[-1] == context
    assert starts[1:] == ends[:-1]
    assert all(end > start for start, end in plan.spans)
    assert len(plan.spans) == 2**plan.height
    assert plan.layers[0][0] == 0
    assert plan.layers[-1][1] == layers
    assert all(a[1] == b[0] for a, b in zip(plan.layers, plan.layers[1:], strict=False))
    assert plan.layers[-1][1] > plan.layers[-1][0]
    for level, (lengths, targets) in enumerate(zip(plan.lengths, plan.targets, strict=True)):
        assert len(lengths) == len(targets) == 2 ** (plan.height - level)
        assert all(affix <= kept <= held for held, kept in zip(lengths, targets, strict=True))
        if plan.layers[level][0] < plan.layers[level][1]:
            assert max(lengths) <= chunk
        else:
            assert lengths == targets  # without a layer there is no significance to prune by
        if level:
            below = plan.targets[level - 1]
            joined = [a + b - affix for a, b in zip(below[::2], below[1::2], strict=True)]
            assert list(lengths) == joined
    capacity = affix + 2 * ((chunk - affix) // 2) if plan.height else chunk
    # an odd room loses a token where both children of the root keep half, and none where the right one is short
    assert plan.final_len in {min(target, affix + context, limit) for limit in (capacity, chunk)}


@st.composite
def document_inputs(draw: st.DrawFn) -> dict[str, Any]:
    prefix, suffix, budget = draw(st.integers(0, 30)), draw(st.integers(1, 30)), draw(st.integers(0, 60))
    lens = draw(st.lists(st.one_of(st.integers(1, 40), st.integers(1, 3000)), min_size=1, max_size=120))
    layers = draw(st.integers(2, 60))
    return {
        "prefix_len": prefix,
        "context_len": sum(lens),
        "suffix_len": suffix,
        "layers": layers,
        "layers_warmup": draw(st.integers(0, layers - 1)),
        "max_chunk_len": prefix + max(suffix, budget) + draw(st.integers(2, 2000)),
        "target_len": prefix + suffix + draw(st.integers(1, 3000)),
        "suffix_budget": budget,
        "document_lens": lens,
    }


@settings(max_examples=300, deadline=None)
@given(document_inputs())
def test_every_plan_of_documents_is_sound(arguments: dict[str, Any]) -> None:
    lens, chunk, layers = arguments["document_lens"], arguments["max_chunk_len"], arguments["layers"]
    affix, target = arguments["prefix_len"] + arguments["suffix_len"], arguments["target_len"]
    reserved = arguments["prefix_len"] + max(arguments["suffix_len"], arguments["suffix_budget"])
    plan = make(dict(arguments))
    starts, ends = zip(*plan.spans, strict=True)
    assert starts == (0, *ends[:-1])
    assert set(itertools.accumulate(lens)) <= set(ends)  # no leaf spans two documents
    assert all(0 < end - start <= chunk - reserved for start, end in plan.spans)
    assert plan.suffix_start + plan.suffix_len <= chunk
    leaves = len(plan.spans)
    assert 2 ** (plan.height - 1) <= leaves <= 2**plan.height
    assert [len(row) for row in plan.lengths] == [leaves, *(2 ** (plan.height - n) for n in range(1, plan.height + 1))]
    assert (plan.layers[0][0], plan.layers[-1][1]) == (0, layers)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(plan.layers))
    assert plan.layers[-1][1] > plan.layers[-1][0]
    for level, (lengths, targets) in enumerate(zip(plan.lengths, plan.targets, strict=True)):
        assert all(affix <= kept <= held for held, kept in zip(lengths, targets, strict=True))
        if plan.layers[level][0] < plan.layers[level][1]:
            assert max(lengths) <= chunk
        else:
            assert lengths == targets
        if level:
            families = [plan.children(level, index) for index in range(len(lengths))]
            assert [n for family in families for n in family] == list(range(len(plan.targets[level - 1])))
            joined = [sum(plan.targets[level - 1][n] - affix for n in family) + affix for family in families]
            assert list(lengths) == joined
    total = affix + sum(lens)
    assert plan.final_len <= min(target, total, chunk)
    if total <= min(target, chunk):
        assert plan.final_len == total  # what fits loses nothing
    order = [(0, leaf) for leaf in range(leaves)]
    ran = [[(0, leaf), *((level, n) for level, n, _ in plan.completed(leaf))] for leaf in range(leaves)]
    assert [node for nodes in ran for node in nodes if node[0] == 0] == order
    assert sorted(node for nodes in ran for node in nodes) == sorted(
        (level, n) for level, row in enumerate(plan.lengths) for n in range(len(row))
    )


@settings(max_examples=100, deadline=None)
@given(document_inputs(), st.randoms())
def test_a_documents_leaves_are_the_same_in_any_company(arguments: dict[str, Any], random: Any) -> None:
    plan = make(dict(arguments))
    lens = list(arguments["document_lens"])
    random.shuffle(lens)
    some = lens[: random.randint(1, len(lens))]
    other = make(arguments | {"document_lens": some, "context_len": sum(some)})
    assert other.layers[0] == plan.layers[0]
    assert cuts(other, some).items() <= cuts(plan, arguments["document_lens"]).items()


def cuts(plan: MergePlan, lens: list[int]) -> dict[int, list[int]]:
    """By length of document: the lengths of its leaves."""
    found: dict[int, list[int]] = {}
    for start, length in zip(itertools.accumulate(lens, initial=0), lens, strict=False):
        found[length] = [b - a for a, b in plan.spans if start <= a < start + length]
    return found


@settings(max_examples=200, deadline=None)
@given(inputs(), st.integers(1, 100))
def test_suffixes_within_the_budget_get_the_same_leaves(arguments: dict[str, int], budget: int) -> None:
    budget = max(budget, arguments["suffix_len"])
    grown = budget - arguments["suffix_len"]
    arguments["max_chunk_len"] += grown
    arguments["target_len"] += grown
    plan = make(arguments | {"suffix_budget": budget})
    longest = make(arguments | {"suffix_len": budget})
    assert (plan.spans, plan.layers, plan.suffix_start) == (longest.spans, longest.layers, longest.suffix_start)
    for (first, end), lengths in zip(plan.layers, plan.lengths, strict=True):
        assert first == end or max(lengths) <= arguments["max_chunk_len"]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 100_000), st.integers(0, 12))
def test_spans_differ_little(context: int, height: int) -> None:
    chunks = 2 ** min(height, context.bit_length() - 1)
    lengths = [end - start for start, end in split_context(context, chunks)]
    assert sum(lengths) == context
    assert len(set(lengths[:-1])) <= 2
    assert min(lengths) >= 1


def test_ten_million_tokens_in_a_deep_tree() -> None:
    plan = plan_merge(10, 10_000_000, 20, layers=2, max_chunk_len=2048, target_len=2048, layers_warmup=0)
    assert plan.height == 13
    assert plan.final_len == 2048
    assert [end - first for first, end in plan.layers] == [1, *[0] * 12, 1]


def test_a_short_right_child_keeps_everything() -> None:
    plan = plan_merge(4, 33, 6, layers=12, max_chunk_len=40, target_len=40, layers_warmup=6, max_initial_chunk_len=29)
    assert plan.lengths[0] == (27, 26)
    uneven = plan_merge(0, 11, 1, layers=4, max_chunk_len=11, target_len=11, layers_warmup=1)
    assert uneven.targets[0] == (6, 6)


def test_a_deep_tree_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "homer.plan.layers"):
        assert layer_ranges(4, 2, 40) == [(0, 2), *[(2, 2)] * 38, (2, 3), (3, 4)]  # no other test has this height
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"context_len": 0}, InputError, "0 tokens"),
        ({"suffix_len": 0}, InputError, "suffix holds 0 tokens"),
        ({"prefix_len": 60}, InputError, "62 at least|72 at least"),
        ({"suffix_budget": 53}, InputError, "prefix and suffix_budget take 63 of max_chunk_len=64"),
        ({"document_lens": [100, 0, 400]}, InputError, "the shortest 0"),
        ({"document_lens": [100, 300]}, InputError, "2 lengths of 400 tokens for a context of 500"),
        ({"document_lens": [500], "layers_warmup": 8}, ConfigError, "lower it to 7"),
        ({"target_len": 10}, ConfigError, "target_len=10 leaves no room for 20 affix tokens: raise it above 20"),
        ({"layers_warmup": 8}, ConfigError, "lower it to 7"),
    ],
)
def test_bad_input(change: dict[str, int], error: type[Exception], words: str) -> None:
    arguments = {"prefix_len": 10, "context_len": 500, "suffix_len": 10, "layers": 8, "layers_warmup": 4}
    arguments |= {"max_chunk_len": 64, "target_len": 64} | change
    with pytest.raises(error, match=words):
        make(arguments)


@pytest.mark.parametrize(
    ("context", "found"),
    [
        (320, None),  # fills four leaves
        (321, 125),
        (420, 125),  # fills four of the longer ones
        (421, None),
        (160, None),
        (161, 125),
        (210, 125),
        (211, None),
        (80, None),  # one leaf
        (81, None),  # two, and never one
        (105, None),
        (1, None),
        (0, None),
        (32 * 80 + 1, 125),
        (32 * 105, 125),
    ],
)
def test_leaves_are_a_quarter_longer_where_this_halves_their_number(context: int, found: int | None) -> None:
    assert longer_leaf(context, 20, 100) == found


def test_what_leaves_keep_for_prefix_and_suffix_counts() -> None:
    assert longer_leaf(4 * 80 + 1, 20, 100) == 125
    assert longer_leaf(4 * 80 + 1, 19, 100) is None  # it fits four as they are
    assert longer_leaf(4 * 80 + 1, 45, 100) is None  # and with more reserved not even four longer ones
    assert longer_leaf(41, 90, 100) == 125  # eight leaves of 10 become two of 35
    assert longer_leaf(41, 100, 100) is longer_leaf(41, 200, 100) is None


@settings(max_examples=200, deadline=None)
@given(inputs())
def test_longer_leaves_are_at_most_half_as_many(arguments: dict[str, int]) -> None:
    chunk, affix = arguments["max_chunk_len"], arguments["prefix_len"] + arguments["suffix_len"]
    longest = longer_leaf(arguments["context_len"], affix, chunk)
    before = make(arguments)
    after = make(arguments | {"max_initial_chunk_len": longest})
    if longest is None:
        assert after == before
        return
    assert 2 <= len(after.spans) <= len(before.spans) / 2
    assert chunk < longest <= 1.25 * chunk
    assert max(after.lengths[0]) <= longest
    merged = zip(after.lengths[1:], after.layers[1:], strict=True)
    assert all(max(row) <= chunk for row, (first, end) in merged if end > first)
