"""A long run that pauses between layers gives bit by bit what it gives at once, on both paths."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architectures import SUPPORTED, build
from conftest import random_ids, tiny_llama
from small import save_small

from homer import HomerConfig, HomerModel, StateStore
from homer.backends import pausing as module
from homer.backends.pausing import for_others, in_turn, pause, pausing, stretches

PARTS = random_ids(4, 150, 6, vocabulary=199)
CONFIG = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=3, chunk_batch_size=3, significance="paper")


@pytest.fixture(autouse=True)
def short_runs_pause_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORK", 1)


def counter() -> tuple[list[int], Callable[[], None]]:
    ticks: list[int] = []
    return ticks, lambda: ticks.append(1)


@pytest.mark.parametrize("name", ["llama-2", "gemma3", "granite", "deepseek-v3", "phi"])
def test_nothing_changes_by_pausing(name: str) -> None:
    model = HomerModel(build(*SUPPORTED[name]), config=CONFIG, calibration=False)
    at_once = model.compress(*PARTS)
    ticks, tick = counter()
    with pausing(tick):
        paused = model.compress(*PARTS)
    assert len(ticks) > len(at_once.plan.spans)
    for side in ("keys", "values"):
        assert all(map(torch.equal, getattr(at_once.entries, side), getattr(paused.entries, side)))
    for field in ("logits", "kept_tokens", "relevance", "position_ids"):
        assert torch.equal(getattr(at_once, field), getattr(paused, field))


def test_the_fast_path_pauses_after_every_layer() -> None:
    decoder = HomerModel(tiny_llama(layers=6), fast=True).decoder
    ids = random_ids(20)[0][None]
    ticks, tick = counter()
    with pausing(tick):
        paused = decoder.run(0, 4, ids, torch.arange(20)[None])
    assert len(ticks) == 4
    assert torch.equal(paused.hidden_states, decoder.run(0, 4, ids, torch.arange(20)[None]).hidden_states)
    assert len(ticks) == 4


def test_what_a_tick_raises_ends_the_run(tiny: HomerModel) -> None:
    def leave() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), pausing(leave):
        tiny.compress(*PARTS)
    pause()  # outside, nobody is asked


def test_layers_run_at_once_where_nobody_pauses_and_in_longer_stretches_where_tokens_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert stretches(3, 9, 1000) == [(3, 9)]
    assert stretches(0, 0, 1000) == [(0, 0)]  # the embeddings
    with pausing(lambda: None):
        assert stretches(3, 8, 1000) == [(3, 5), (5, 7), (7, 8)]
        monkeypatch.setattr(module, "_WORK", 40)
        assert stretches(3, 8, 10) == [(3, 7), (7, 8)]
        assert stretches(3, 8, 1) == [(3, 8)]


def test_a_prompt_pauses_whichever_way_it_is_read(tmp_path: Path) -> None:
    model = HomerModel.from_pretrained(save_small(tmp_path), calibration=False)
    prompt = model.build_prompt("What is it?", ["A lamp stands in the hall. " * 20, "It is green. " * 40])
    for more in ({}, {"store": StateStore(memory_bytes=10**9)}):
        ticks, tick = counter()
        model.compress_prompt(prompt, tick=tick, **more)
        assert len(ticks) > 8


def test_a_turn_holds_within_and_in_calls_below_that_name_none() -> None:
    turn = threading.Lock()
    with pausing(lambda: None, turn), pausing(lambda: None):
        assert in_turn() is turn
    with in_turn():
        assert not turn.locked()


def test_what_others_need_as_well_is_run_to_its_end() -> None:
    ticks, tick = counter()

    def leave() -> None:
        tick()
        raise ZeroDivisionError

    def run() -> None:
        with pausing(leave), for_others():
            pause()
            pause()  # who has left is not asked again
            ended.append(1)

    ended: list[int] = []
    with pytest.raises(ZeroDivisionError):
        run()
    assert ended == ticks == [1]
    with for_others():  # where nobody pauses
        assert stretches(0, 9, 1000) == [(0, 9)]
        pause()
