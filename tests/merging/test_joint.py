"""Short prompts of several threads, read as one batch, are what each is alone; nobody waits for company."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from architectures import SUPPORTED, build
from conftest import random_ids, tiny_llama
from torch import Tensor

from homer import CompactCache, HomerConfig, HomerModel
from homer.backends import pausing as pauses
from homer.backends.pausing import pausing
from homer.merging import joint as module
from homer.merging.joint import Joint
from homer.merging.walk import Walk

CONFIG = HomerConfig(max_chunk_len=128, target_len=128)
LENGTHS = (40, 52, 47, 44, 58, 41, 50)
Parts = list[Tensor]


def model_of(name: str, fast: bool = False) -> HomerModel:
    """A tiny model that reads prompts together, though on a CPU."""
    model = HomerModel(build(*SUPPORTED[name]), config=CONFIG, calibration=False, fast=fast)
    model._joint.rows = 1000
    return model


def prompts_of(lengths: Sequence[int] = LENGTHS) -> list[Parts]:
    return [random_ids(4, length - 10, 6, seed=seed, vocabulary=199) for seed, length in enumerate(lengths)]


def one_by_one(model: HomerModel, prompts: Sequence[Parts]) -> list[CompactCache]:
    """As they are where nothing is read together."""
    rows, model._joint.rows = model._joint.rows, 0
    caches = [model.compress(*parts) for parts in prompts]
    model._joint.rows = rows
    return caches


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Prompts of every batch of several."""
    seen: list[int] = []
    run = Joint._run

    def counted(joint: Joint, company: list[Any], walk: Walk) -> None:
        seen.append(len(company))
        run(joint, company, walk)

    monkeypatch.setattr(Joint, "_run", counted)
    monkeypatch.setattr(pauses, "_WORK", 1)  # so that tiny models pause as well
    return seen


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def at_once(
    model: HomerModel,
    prompts: Sequence[Parts],
    ticks: Sequence[Callable[[], None]] = (),
    meanwhile: Callable[[], None] = lambda: None,
) -> list[CompactCache | BaseException]:
    """What prompts come to that wait while another one is read; they line up in their order."""
    joint, held = model._joint, threading.Event()

    def read(parts: Parts, tick: Callable[[], None]) -> CompactCache:
        with pausing(tick):
            return model.compress(*parts)

    with ThreadPoolExecutor(len(prompts) + 1) as pool:
        first = pool.submit(read, prompts_of([12])[0], lambda: wait_until(held.is_set))
        wait_until(lambda: joint._leads)
        found = []
        for number, (parts, tick) in enumerate(itertools.zip_longest(prompts, ticks, fillvalue=lambda: None), 1):
            found.append(pool.submit(read, parts, tick))  # type: ignore[arg-type]
            wait_until(lambda number=number: len(joint._waiting) == number)  # type: ignore[misc]
        meanwhile()
        held.set()
        first.result(30)
        results = [future.exception(30) or future.result() for future in found]
    assert not joint._leads
    assert joint._waiting == []
    return results


def assert_close(ours: Any, alone: CompactCache) -> None:
    """The same prompt, but for rounding."""
    assert isinstance(ours, CompactCache), ours
    for name in ("kept_tokens", "position_ids", "token_ids", "survived"):
        assert torch.equal(getattr(ours, name), getattr(alone, name)), name
    for name in ("logits", "relevance"):
        assert getattr(ours, name).shape == getattr(alone, name).shape
        torch.testing.assert_close(getattr(ours, name), getattr(alone, name), rtol=1e-3, atol=1e-4)
    for side in ("keys", "values"):
        for one, other in zip(getattr(ours, side), getattr(alone, side), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
            assert one.untyped_storage().nbytes() <= alone.nbytes + 1024, "it holds memory of others"


@pytest.mark.parametrize(
    ("name", "fast"),
    [
        ("llama-2", True),
        ("qwen3", True),
        *((n, False) for n in ("llama-3.1", "gemma3", "granite", "deepseek-v3", "phi")),
    ],
)
def test_prompts_read_together_are_what_each_is_alone(name: str, fast: bool, sizes: list[int]) -> None:
    model, prompts = model_of(name, fast), prompts_of()
    alone = one_by_one(model, prompts)
    together = at_once(model, prompts)
    assert sizes == [len(prompts)]
    for number, (ours, expected) in enumerate(zip(together, alone, strict=True)):
        assert_close(ours, expected)
        for options in ({}, {"temperature": 1.3, "seed": number}) if number < 3 else ():
            ours_say, they_say = (model.generate(cache, 8, **options).token_ids for cache in (ours, expected))
            assert ours_say == they_say


def test_who_comes_alone_is_read_at_once_and_as_ever(sizes: list[int]) -> None:
    model, prompts = model_of("llama-2"), prompts_of()
    for parts, alone in zip(prompts, one_by_one(model, prompts), strict=True):
        cache = model.compress(*parts)
        assert torch.equal(cache.logits, alone.logits)
        assert torch.equal(cache.relevance, alone.relevance)
        assert all(map(torch.equal, (*cache.keys, *cache.values), (*alone.keys, *alone.values)))
    assert sizes == []


def test_a_batch_that_fails_is_read_one_by_one(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = model_of("llama-2"), prompts_of()
    alone = one_by_one(model, prompts)

    def fails(joint: Joint, company: list[Any], walk: Walk) -> None:
        sizes.append(len(company))
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Joint, "_run", fails)
    for ours, expected in zip(at_once(model, prompts), alone, strict=True):
        assert_close(ours, expected)
    assert sizes == [len(prompts)]


class _LeftError(Exception):
    """As a tick raises it whose client has left."""


def test_one_that_leaves_ends_no_other_whether_it_leads_or_waits(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = model_of("llama-2"), prompts_of()
    alone = one_by_one(model, prompts)
    monkeypatch.setattr(module, "_LOOK", 60)  # nobody looks before its bell rings: the first in line leads

    def leave_once_read() -> None:
        if sizes:
            raise _LeftError

    for leaver in (0, 3):
        sizes.clear()
        ticks: list[Callable[[], None]] = [lambda: None] * len(prompts)
        ticks[leaver] = leave_once_read
        together = at_once(model, prompts, ticks)
        assert sizes == [len(prompts)]
        assert isinstance(together[leaver], _LeftError)
        for ours, expected in list(zip(together, alone, strict=True))[leaver + 1 :]:
            assert_close(ours, expected)


def test_one_that_leaves_while_it_waits_is_not_read(sizes: list[int]) -> None:
    model, prompts = model_of("llama-2"), prompts_of()
    alone = one_by_one(model, prompts)
    leaves = threading.Event()

    def leave() -> None:
        if leaves.is_set():
            raise _LeftError

    def let_leave() -> None:
        leaves.set()
        wait_until(lambda: len(model._joint._waiting) == len(prompts) - 1)

    together = at_once(model, prompts, [lambda: None, leave], let_leave)
    assert isinstance(together[1], _LeftError)
    assert sizes == [len(prompts) - 1]
    for number in {*range(len(prompts))} - {1}:
        assert_close(together[number], alone[number])


class _Share:
    """One lock for all who compute, which `pass_on` lets others have in between."""

    def __init__(self, lock: Any) -> None:
        self.lock, self.computes, self.entered = lock, False, 0

    def __enter__(self) -> None:
        assert self.lock.acquire(timeout=30), "somebody computes who waits for others"
        self.computes, self.entered = True, self.entered + 1

    def __exit__(self, *_: Any) -> None:
        self.computes = False
        self.lock.release()

    def pass_on(self) -> None:
        if self.computes:
            self.__exit__()
            time.sleep(0.001)
            self.__enter__()


def test_who_computes_does_so_in_its_turn_and_who_waits_for_others_outside_of_it(sizes: list[int]) -> None:
    model, lock = model_of("llama-2"), threading.Lock()
    prompts = prompts_of((44,) * 8)
    shares, alone = [_Share(lock) for _ in prompts], one_by_one(model, prompts)

    def read(parts: Parts, share: _Share) -> CompactCache:
        with pausing(share.pass_on, share):
            return model.compress(*parts)

    with lock, ThreadPoolExecutor(8) as pool:
        found = [pool.submit(read, *given) for given in zip(prompts, shares, strict=True)]
        wait_until(lambda: len(model._joint._waiting) == 8)
        lock.release()
        for ours, expected in zip(found, alone, strict=True):
            assert_close(ours.result(30), expected)
        lock.acquire()
    assert sizes == [8]
    assert sum(share.entered > 0 for share in shares) == 1


def test_company_is_of_like_length_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    joint = model_of("llama-2")._joint

    def company(*lengths: int) -> list[int]:
        joint._waiting = [module._Seat(range(length)) for length in lengths]  # type: ignore[arg-type]
        rest, chosen = list(joint._waiting), joint._company(joint._waiting[0])
        assert joint._waiting == [seat for seat in rest if seat not in chosen]
        return [len(seat) for seat in chosen]

    assert company(100, 20, 90, 130, 101) == [100, 101, 90, 130]
    assert company(400, 400, 400) == [400, 400]  # 1,000 rows at most
    assert company(10) == [10]
    assert company(10, 500) == [10]
    assert len(company(*[10] * 40)) == 16


def test_what_is_read_together(sizes: list[int]) -> None:
    model = model_of("llama-2")
    plan = model.plan(4, 40, 6)
    assert model._joint.takes(plan)
    assert not model._joint.takes(model.plan(4, 400, 6))  # a tree
    assert not model._joint.takes(model.plan(4, 240, 6, config=HomerConfig(target_len=64)))  # tokens are dropped
    model._joint.rows = 99
    assert not model._joint.takes(plan)  # no room for two
    assert Joint(model.decoder).rows == 0  # on a CPU


def test_what_turns_otherwise_in_a_longer_call_stays_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama-2")
    monkeypatch.setattr(type(model.decoder), "rope", {"rope_type": "dynamic", "original_max_position_embeddings": 45})
    assert model._joint.takes(model.plan(4, 35, 6))
    assert not model._joint.takes(model.plan(4, 36, 6))


def test_a_model_that_pads_badly_reads_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama-2")
    monkeypatch.setattr(type(model.decoder), "_goes_together", False)
    assert not model._joint.takes(model.plan(4, 40, 6))


def test_a_forked_child_waits_for_nobody() -> None:
    model = model_of("llama-2")
    model._joint._leads, model._joint._waiting = True, [module._Seat(range(9))]  # type: ignore[arg-type]
    model._joint.renew()
    assert len(model.compress(*prompts_of()[0])) == LENGTHS[0]


def test_many_threads_whatever_comes_when(sizes: list[int]) -> None:
    model = HomerModel(tiny_llama(), config=CONFIG, calibration=False)
    model._joint.rows = 300
    prompts = prompts_of([20 + 7 * (n % 9) for n in range(40)])
    alone = one_by_one(model, prompts)
    with ThreadPoolExecutor(12) as pool:
        for ours, expected in zip(pool.map(lambda parts: model.compress(*parts), prompts), alone, strict=True):
            assert_close(ours, expected)
