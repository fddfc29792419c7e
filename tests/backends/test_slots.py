"""Requests that take a step together get what each gets alone, whatever their lengths, and whoever comes and goes."""

import gc
import weakref
from typing import Any

import pytest
import torch
from architectures import SUPPORTED, build
from conftest import random_ids, tiny_llama

from homer import HomerConfig, HomerModel
from homer.backends import graph_slots, padded
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


class Captured:
    """What stands for a CUDA graph: it runs the step that was captured on the very tensors that were there."""

    def __init__(self, slots: GraphSlots, size: int, made: list[int]) -> None:
        made.append(size)
        self._slots, self._size, self._tensors = slots, size, [side.data_ptr() for side in slots._sides]

    def replay(self) -> None:
        assert self._tensors == [side.data_ptr() for side in self._slots._sides]
        self._slots._run(self._size)


def captured(model: HomerModel, monkeypatch: pytest.MonkeyPatch, free: int = 1 << 30) -> list[int]:
    """Let a model's slots work as on a GPU with so many free bytes; the sizes of all graphs that are made."""
    made: list[int] = []
    assert isinstance(model.decoder, FusedDecoder)

    def slots() -> GraphSlots:
        assert isinstance(model.decoder, FusedDecoder)
        new = GraphSlots(model.decoder.parts)
        new._captures = True
        return new

    monkeypatch.setattr(model.decoder, "slots", slots)
    monkeypatch.setattr(graph_slots, "_free", lambda device: free)
    monkeypatch.setattr(graph_slots, "ROUND", 16)
    monkeypatch.setattr(GraphSlots, "_capture", lambda slots, size: Captured(slots, size, made))
    return made


def said(model: HomerModel, length: int, tokens: int) -> list[int]:
    cache = model.compress(*random_ids(4, length, 6, seed=length, vocabulary=199))
    return list(model.generate(cache, tokens).token_ids)


def test_graphs_outlive_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HomerModel(tiny_llama(), calibration=False, fast=True)
    expected = [said(model, length, 12) for length in (45, 20, 9)]
    made = captured(model, monkeypatch)
    assert [said(model, length, 12) for length in (45, 20, 9)] == expected  # each when the one before has ended
    assert made == [1]
    assert said(model, 40, 150) == said(HomerModel(model.model, calibration=False), 40, 150)  # beyond what is there
    assert made == [1, 1]
    assert said(model, 20, 12) == expected[1]
    assert made == [1, 1]


def test_what_more_rows_left_serves_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HomerModel(tiny_llama(), calibration=False, fast=True)
    made = captured(model, monkeypatch)
    slots, entries = model.decoder.slots(), entries_of(model, (20, 45, 3, 70))
    assert not slots.stays()  # there is nothing yet
    slots.join(entries[:3])
    slots.step(torch.tensor([1, 2, 3]))
    for _ in range(3):
        slots.leave(0)
    assert slots.stays()
    one = OneByOne(model.decoder.extend, model.decoder.device)
    for side in (slots, one):
        side.join(entries[3:])
        side.step(torch.tensor([7]))
        side.step(torch.tensor([8]))
    torch.testing.assert_close(slots.logits, one.logits, atol=5e-5, rtol=1e-4)
    assert made == [4, 1]
    slots.leave(0)
    held = sum(side.nbytes for side in slots._sides)  # type: ignore[attr-defined]
    slots.join(entries_of(model, (90,), room=150))  # one long row does not take what four would
    assert sum(side.nbytes for side in slots._sides) < held  # type: ignore[attr-defined]


def test_what_would_hold_much_of_the_memory_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HomerModel(tiny_llama(), calibration=False, fast=True)
    made = captured(model, monkeypatch, free=1000)
    said(model, 20, 5)
    said(model, 20, 5)
    assert made == [1, 1]
    assert model._streams.batch._slots is None


def test_what_stays_goes_with_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HomerModel(tiny_llama(), calibration=False, fast=True)
    captured(model, monkeypatch)
    said(model, 20, 5)
    kept = weakref.ref(model._streams.batch._slots)
    assert kept() is not None
    monkeypatch.undo()
    del model
    gc.collect()
    assert kept() is None


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
