"""Requests that take a step together get what each gets alone, whatever their lengths, and whoever comes and goes."""

from typing import Any

import pytest
import torch
from architectures import SUPPORTED, build
from conftest import random_ids, tiny_llama

from homer import HomerConfig, HomerModel
from homer.backends import padded
from homer.backends.fused import FusedDecoder
from homer.backends.graph_slots import GraphSlots
from homer.backends.padded import OneByOne, PaddedSlots
from homer.backends.slots import SIZES, Entry, Slots, size_for

HEADS = {"head_dim": 8, "query_pre_attn_scalar": 8}
SLIDING: dict[str, tuple[str, dict[str, Any]]] = {  # windows shorter than what is cached
    "gemma2": ("Gemma2Config", HEADS | {"sliding_window": 24}),
    "gemma3": ("Gemma3TextConfig", SUPPORTED["gemma3"][1] | {"sliding_window": 24}),
    "mistral": ("MistralConfig", {"sliding_window": 24}),
}
CASES = {f"sliding {name}": case for name, case in SLIDING.items()} | SUPPORTED


def entries_of(model: HomerModel, lengths: tuple[int, ...], room: int = 40) -> list[Entry]:
    caches = [model.compress(*random_ids(4, n, 6, seed=n, vocabulary=199)) for n in lengths]
    return [Entry(cache.entries, cache.logits, cache.next_position, room) for cache in caches]


def check_equal(ours: Slots, alone: Slots, entries: list[Entry]) -> None:
    """Join two, then two more; one rests and comes back, one leaves; all the time their logits are the same."""
    sides = (ours, alone)
    for number in range(12):
        if number in (0, 3):
            for side in sides:
                side.join(entries[2 * (number == 3) :][:2])
        if number == 5:
            resting = [(side.take(0), side.leave(0))[0] for side in sides]
            assert resting[0].length == resting[1].length == entries[0].length + 5
        if number == 7:
            for side, entry in zip(sides, resting, strict=True):
                side.join([entry])
        if number == 9:
            for side in sides:
                side.leave(1)
        assert len(ours) == len(alone)
        torch.testing.assert_close(ours.logits, alone.logits, atol=5e-5, rtol=1e-4)
        for side in sides:
            side.step(alone.logits.argmax(-1))


@pytest.mark.parametrize("name", CASES)
def test_rows_of_unlike_lengths_give_what_each_gives_alone(name: str) -> None:
    model = HomerModel(build(*CASES[name]), calibration=False, fast=False)
    slots = model.decoder.slots()
    assert isinstance(slots, PaddedSlots)
    alone = OneByOne(model.decoder.extend, model.decoder.device)
    check_equal(slots, alone, entries_of(model, (20, 45, 3, 70)))


@pytest.mark.parametrize("name", ["llama-2", "llama-3.1", "mistral", "qwen2", "qwen3"])
def test_rows_with_places_of_their_own_give_what_each_gives_alone(name: str) -> None:
    model = HomerModel(build(*SUPPORTED[name]), calibration=False, fast=True)
    assert isinstance(model.decoder, FusedDecoder)
    ours = GraphSlots(model.decoder.parts)  # without its graphs, which only a GPU has
    check_equal(ours, OneByOne(model.decoder.extend, model.decoder.device), entries_of(model, (20, 45, 3, 70)))
    longer = entries_of(model, (90,), room=150)  # beyond what there is room for
    one = OneByOne(model.decoder.extend, model.decoder.device)
    one.join([ours.take(row) for row in range(len(ours))])
    for side in (ours, one):
        side.join(longer)
        for token in range(9):
            side.step(torch.arange(len(side)) + token)
    torch.testing.assert_close(ours.logits, one.logits, atol=5e-5, rtol=1e-4)


def test_columns_are_made_anew_where_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padded, "_SPARE", 8)
    model = HomerModel(tiny_llama(), config=HomerConfig(max_chunk_len=32, layers_warmup=2))
    entries = entries_of(model, (9, 20))
    ours, alone = model.decoder.slots(), OneByOne(model.decoder.extend, model.decoder.device)
    for side in (ours, alone):
        side.join(entries)
        for token in range(30):
            side.step(torch.tensor([token, 100 - token]))
    torch.testing.assert_close(ours.logits, alone.logits, atol=5e-5, rtol=1e-4)


def test_a_model_that_minds_padding_goes_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HomerModel(tiny_llama(), fast=False)
    extend = model.decoder.extend
    without = lambda ids, places, cache, keep=0, mask=None: extend(ids, places, cache, keep)  # noqa: E731
    monkeypatch.setattr(model.decoder, "extend", without)
    assert isinstance(model.decoder.slots(), OneByOne)
    broken = HomerModel(tiny_llama(), fast=False)
    monkeypatch.setattr(PaddedSlots, "step", lambda slots, tokens: 1 / 0)
    assert isinstance(broken.decoder.slots(), OneByOne)


def test_sizes() -> None:
    assert [size_for(n) for n in (1, 2, 3, 9, 32)] == [1, 2, 4, 16, 32]
    assert SIZES[-1] == 32
