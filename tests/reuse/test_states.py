"""Leaves and contexts that are kept, and the loop that generates, each by itself."""

import importlib.metadata
from pathlib import Path

import pytest
import torch

import homer.calibrating.heads as heads
from homer import HomerModel, InputError, StateStore
from homer.base.version import __version__
from homer.generation.loop import generate_tokens
from homer.generation.sampling import Sampling
from homer.reuse.encoded import EncodedContext
from homer.reuse.finding import Slices, Where, find, make
from homer.reuse.leaves import leaf_weights
from tests.conftest import random_ids


def test_there_is_one_version() -> None:
    assert importlib.metadata.version("homer-integrations") == __version__


def test_every_passage_has_questions_whose_answers_stand_in_it() -> None:
    documents, asked = heads.load_pairs()
    assert len(asked) > len(documents) > 10
    for question in asked:
        assert question.answer in documents[question.passage]["text"], question.question


def test_leaves_are_run_once_and_then_found(tiny: HomerModel, tmp_path: Path) -> None:
    prefix, context = random_ids(3, 100)
    plan = tiny.plan(3, 100, 4)
    store = StateStore(tmp_path / "states")
    slices, where = Slices.of(prefix, context, plan), Where(store)
    assert not list(find(tiny.decoder, slices, store))
    numbers, made = range(len(plan.spans)), {}
    for batch in make(tiny.decoder, slices, numbers, where, 64):  # two leaves at a time
        assert len(batch) <= 2
        made |= batch
    found = dict(find(tiny.decoder, slices, store))
    assert sorted(made) == sorted(found) == list(numbers)
    assert sum(map(len, found.values())) == 100
    for number in numbers:
        torch.testing.assert_close(made[number].keys, found[number].keys)


def test_a_leafs_share_in_the_average_halves_with_every_merge(tiny: HomerModel) -> None:
    plan = tiny.plan(3, 100, 4)
    weights = leaf_weights(plan)
    assert len(weights) == len(plan.spans) > 2
    assert sum(weights) == 1
    assert min(weights) == 0.5**plan.height


def test_an_encoded_context_says_what_it_can_take(tiny: HomerModel) -> None:
    prefix, context = random_ids(3, 100)
    encoded = tiny.encode(context, prefix=prefix, suffix_budget=6)
    assert isinstance(encoded, EncodedContext)
    assert (len(encoded), encoded.suffix_budget) == (103, 6)
    assert encoded.nbytes == encoded.prefix.nbytes + sum(leaf.nbytes for leaf in encoded.leaves)
    encoded.check_suffix(6)
    with pytest.raises(InputError, match="the suffix holds 7 tokens"):
        encoded.check_suffix(7)


def test_the_loop_gives_as_many_tokens_as_are_asked_for(tiny: HomerModel) -> None:
    cache = tiny.compress(*random_ids(3, 100, 4))
    greedy = list(generate_tokens(tiny.decoder, cache, Sampling(max_new_tokens=5)))
    assert len(greedy) == 5
    assert greedy[0] == int(cache.logits.argmax())
    drawn = [list(generate_tokens(tiny.decoder, cache, Sampling(5, temperature=1.0, seed=7))) for _ in range(2)]
    assert drawn[0] == drawn[1]
