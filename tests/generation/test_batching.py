"""Streams of one model in a batch: what each says is what it says alone, whoever comes, goes, fails or reads slowly."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from architectures import SUPPORTED, build
from conftest import random_ids, tiny_llama

from homer import CompactCache, GenerationError, HomerConfig, HomerModel
from homer.backends.padded import PaddedSlots
from homer.generation.batching import Batch
from homer.generation.loop import generate_tokens
from homer.generation.sampling import Sampling
from homer.generation.seat import AHEAD, Seat

CONFIG = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2)
REQUESTS = [  # prompt lengths and settings, none like another
    (20, {"max_new_tokens": 12}),
    (150, {"max_new_tokens": 9}),
    (5, {"max_new_tokens": 30}),
    (9, {"max_new_tokens": 20, "temperature": 1.3, "seed": 3}),
    (80, {"max_new_tokens": 17, "repetition_penalty": 1.6}),
    (33, {"max_new_tokens": 1}),
    (60, {"max_new_tokens": 25, "top_p": 0.8, "seed": 4}),
    (12, {"max_new_tokens": 14, "temperature": 0.7, "top_k": 5, "min_p": 0.01, "seed": -1}),
]


class Gate:
    """Lets the leader take so many steps, and no more until it is told to."""

    def __init__(self) -> None:
        self.steps, self._free = 0, threading.Semaphore(0)

    def let(self, count: int) -> None:
        for _ in range(count):
            self._free.release()

    def __enter__(self) -> None:
        assert self._free.acquire(timeout=30)
        self.steps += 1

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""


@pytest.fixture(scope="module")
def model() -> HomerModel:
    return HomerModel(tiny_llama(), config=CONFIG)


@pytest.fixture
def batch(model: HomerModel) -> Batch:
    return Batch(model.decoder)


def cache_of(model: HomerModel, length: int, seed: int = 0) -> CompactCache:
    return model.compress(*random_ids(4, length, 6, seed=seed, vocabulary=199))


def alone(model: HomerModel, cache: CompactCache, options: Any) -> list[int]:
    return list(generate_tokens(model.decoder, cache, Sampling(**options)))


def together(batch: Batch, requests: list[tuple[CompactCache, Any]], workers: int = 8) -> list[list[int]]:
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda request: list(batch.open(request[0], Sampling(**request[1]))), requests))


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("name", ["llama-2", "qwen3", "gemma3", "granite", "mixtral", "deepseek-v3", "gpt-neox"])
def test_eight_requests_at_once_say_what_each_says_alone(name: str) -> None:
    model = HomerModel(build(*SUPPORTED[name]), config=CONFIG)
    requests = [(cache_of(model, length), options) for length, options in REQUESTS]
    expected = [alone(model, *request) for request in requests]
    assert together(Batch(model.decoder), requests) == expected
    assert [len(tokens) for tokens in expected] == [options["max_new_tokens"] for _, options in REQUESTS]


def test_steps_are_shared(model: HomerModel, batch: Batch) -> None:
    cache, gate = cache_of(model, 50), Gate()
    batch.share = gate
    seats = [batch.open(cache, Sampling(max_new_tokens=10)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        tokens = [pool.submit(list, seat) for seat in seats]
        wait_for(lambda: len(batch._asleep) == 7)  # all but the leader
        gate.let(30)
        assert [future.result(30) for future in tokens] == [alone(model, cache, {"max_new_tokens": 10})] * 8
    assert gate.steps == 10
    assert batch._slots is None  # nothing is held where nobody runs


def test_more_than_there_are_places_wait(model: HomerModel) -> None:
    requests = [(cache_of(model, length), options) for length, options in REQUESTS]
    batch = Batch(model.decoder, most=2)
    assert together(batch, requests) == [alone(model, *request) for request in requests]


def test_one_thread_may_read_several_in_turn(model: HomerModel, batch: Batch) -> None:
    cache = cache_of(model, 50)
    expected = alone(model, cache, {"max_new_tokens": 40})
    one, other = (batch.open(cache, Sampling(max_new_tokens=40)) for _ in range(2))
    assert list(zip(one, other, strict=True)) == list(zip(expected, expected, strict=True))


def test_who_reads_slowly_rests_and_goes_on_as_if_nothing_were(model: HomerModel, batch: Batch) -> None:
    cache, options = cache_of(model, 50), {"max_new_tokens": 60, "temperature": 1.0, "seed": 5}
    slow = batch.open(cache, Sampling(**options))
    first = next(slow)
    quick = list(batch.open(cache, Sampling(max_new_tokens=60)))
    assert quick == alone(model, cache, {"max_new_tokens": 60})
    assert len(slow._row.tokens) == AHEAD
    assert batch._slots is None
    assert [first, *slow] == alone(model, cache, options)


@pytest.mark.parametrize("way", ["leave", "forget"])
def test_who_leaves_frees_its_place(model: HomerModel, batch: Batch, way: str) -> None:
    cache = cache_of(model, 50)
    stays, goes = (batch.open(cache, Sampling(max_new_tokens=40)) for _ in range(2))
    next(stays), next(goes), next(stays)
    assert len(batch._slots or ()) == 2
    if way == "leave":
        goes.leave()
        assert list(goes) == []
    else:
        del goes
    assert len(batch._slots or ()) == 1
    assert len(list(stays)) == 38
    stays.leave()  # nothing is left to free


def test_a_place_is_free_after_the_step_in_which_it_was_left(model: HomerModel, batch: Batch) -> None:
    cache, gate = cache_of(model, 50), Gate()
    batch.share = gate
    stays, goes = (batch.open(cache, Sampling(max_new_tokens=40)) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        gate.let(2)
        next(stays), next(goes)
        rest = pool.submit(list, stays)
        wait_for(lambda: batch._leads)
        goes.leave()
        gate.let(1)
        wait_for(lambda: gate.steps == 3 and len(batch._rows) == 1)
        gate.let(40)
        assert len(rest.result(30)) == 39


def test_a_cancelled_stream_that_waits_ends_at_once(model: HomerModel) -> None:
    cache, gate = cache_of(model, 50), Gate()
    model._streams.batch.share, before = gate, model._streams.batch.share
    try:
        first, second = model.stream(cache, 20), model.stream(cache, 20)
        with ThreadPoolExecutor(2) as pool:
            leads = pool.submit(first.result)
            wait_for(lambda: model._streams.batch._leads)
            waits = pool.submit(second.result)
            wait_for(lambda: len(model._streams.batch._asleep) == 1)
            second.cancel()
            assert waits.result(10).finish_reason == "cancelled"
            gate.let(40)
            assert len(leads.result(30).token_ids) == 20
    finally:
        model._streams.batch.share = before


def test_a_stream_that_nobody_reads_on_is_collected(model: HomerModel) -> None:
    batch = model._streams.batch
    stream = model.stream(cache_of(model, 50), 20)
    next(stream._tokens)
    assert len(batch._rows) == 1
    del stream
    gc.collect()
    assert batch._rows == []


def test_what_fails_in_one_request_is_its_own(model: HomerModel, batch: Batch) -> None:
    cache = cache_of(model, 50)
    good, bad = (batch.open(cache, Sampling(max_new_tokens=10)) for _ in range(2))

    def fail(token: int) -> None:
        raise ValueError(f"no {token}")

    bad._row.chooser.accept = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="no "):
        list(bad)
    assert list(good) == alone(model, cache, {"max_new_tokens": 10})
    assert batch._slots is None


def test_a_step_that_fails_is_told_to_all_and_the_next_ones_run(
    model: HomerModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(model, 50)
    seats = [batch.open(cache, Sampling(max_new_tokens=10)) for _ in range(3)]
    for seat in seats:
        next(seat)
    with monkeypatch.context() as patch:
        patch.setattr(PaddedSlots, "step", lambda slots, tokens: 1 / 0)
        for seat in seats:
            with pytest.raises(ZeroDivisionError):
                list(seat)
    assert batch._slots is None
    assert len(list(batch.open(cache, Sampling(max_new_tokens=10)))) == 10


def test_an_interrupted_leader_leaves_the_lead(
    model: HomerModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(model, 50)
    one, other = (batch.open(cache, Sampling(max_new_tokens=10)) for _ in range(2))
    next(one), next(other)

    def interrupt(slots: PaddedSlots, tokens: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PaddedSlots, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(one)
    with pytest.raises(GenerationError, match="a step was broken off: KeyboardInterrupt"):
        list(other)
    assert len(list(batch.open(cache, Sampling(max_new_tokens=10)))) == 10


def test_where_memory_is_tight_fewer_run_at_once(
    model: HomerModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, join = [0], PaddedSlots.join

    def tight(slots: PaddedSlots, entries: Any) -> None:
        if len(slots) + len(entries) > 3:
            raise torch.OutOfMemoryError("no room")
        join(slots, entries)
        most[0] = max(most[0], len(slots))

    monkeypatch.setattr(PaddedSlots, "join", tight)
    requests = [(cache_of(model, length), options) for length, options in REQUESTS]
    assert together(batch, requests) == [alone(model, *request) for request in requests]
    assert most[0] == 3
    monkeypatch.setattr(PaddedSlots, "join", lambda slots, entries: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(torch.OutOfMemoryError):
        list(batch.open(*requests[0][:1], Sampling(max_new_tokens=3)))


def test_end_tokens_end_a_row_without_its_reader(model: HomerModel, batch: Batch) -> None:
    cache = cache_of(model, 50)
    expected = alone(model, cache, {"max_new_tokens": 30})
    end = expected[4]
    assert list(batch.open(cache, Sampling(max_new_tokens=30), frozenset({end}))) == expected[: expected.index(end) + 1]


def test_a_leader_in_inference_mode_harms_nobody(model: HomerModel, batch: Batch) -> None:
    cache = cache_of(model, 50)
    expected = alone(model, cache, {"max_new_tokens": 20})
    plain, other = (batch.open(cache, Sampling(max_new_tokens=20)) for _ in range(2))
    with torch.inference_mode():
        first = next(other)
    assert list(plain) == expected
    assert [first, *other] == expected


def test_a_child_process_begins_anew(model: HomerModel, batch: Batch) -> None:
    cache = cache_of(model, 50)
    seat = batch.open(cache, Sampling(max_new_tokens=20))
    next(seat)
    batch.renew()  # as after a fork
    with pytest.raises(GenerationError, match="begun in another process: begin it again"):
        list(seat)
    assert list(batch.open(cache, Sampling(max_new_tokens=20))) == alone(model, cache, {"max_new_tokens": 20})


def test_streams_of_a_model_share_one_batch(model: HomerModel) -> None:
    assert isinstance(model.stream(cache_of(model, 50), 3)._tokens, Seat)
    assert model.generate(cache_of(model, 50), 12).token_ids == alone(
        model, cache_of(model, 50), {"max_new_tokens": 12}
    )


def test_many_come_and_go(model: HomerModel, batch: Batch) -> None:
    caches = {length: cache_of(model, length) for length in (5, 30, 90)}
    expected = {length: alone(model, cache, {"max_new_tokens": 40}) for length, cache in caches.items()}

    def visit(number: int) -> bool:
        length, count = (5, 30, 90)[number % 3], 1 + number * 7 % 40
        seat: Iterator[int] = batch.open(caches[length], Sampling(max_new_tokens=40))
        found = [token for token, _ in zip(seat, range(count), strict=False)]
        if number % 2 and isinstance(seat, Seat):
            seat.leave()
        return found == expected[length][:count]

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(visit, range(60)))
    gc.collect()
    assert batch._slots is None
    assert not batch._waiting
    assert not batch._leads
