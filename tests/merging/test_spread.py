"""Several devices give what one gives, bit for bit."""

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import random_ids, tiny_llama
from small import assert_same

from homer import HomerConfig, HomerModel
from homer.backends.devices import Replicas
from homer.merging.leaves import WholeLeaves
from homer.merging.node import Node
from homer.merging.spread import moved, steps_of

CONFIG = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2)


@functools.cache
def pair(devices: int, fast: bool) -> tuple[HomerModel, HomerModel]:
    model = tiny_llama()
    several = HomerModel(model, config=CONFIG, fast=fast, devices=["cpu"] * devices)
    return several, HomerModel(model, config=CONFIG, fast=fast)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("context_len", [20, 40, 333, 1500])
def test_several_devices_equal_one(devices: int, fast: bool, context_len: int) -> None:
    several, one = pair(devices, fast)
    parts = random_ids(4, context_len, 5, seed=context_len)
    assert_same(several.compress(*parts), one.compress(*parts))


@pytest.mark.parametrize("significance", ["paper", "standardized"])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_documents_of_any_number_in_batches_of_any_size(batch: int, significance: str) -> None:
    several, one = pair(2, True)
    config = HomerConfig(32, 24, 2, chunk_batch_size=batch, refresh_suffix=False, significance=significance)
    lens = [7, 23, 23, 5, 60, 23, 1, 1, 40, 23, 12]
    parts = random_ids(4, sum(lens), 5, seed=batch)
    results = [model.compress(*parts, document_lens=lens, config=config) for model in (several, one)]
    assert_same(*results)


def test_a_tree_with_levels_that_run_no_layers() -> None:
    config = HomerConfig(max_chunk_len=16, target_len=16, layers_warmup=1)
    model = tiny_llama(layers=3)
    parts = random_ids(2, 900, 3)
    several = HomerModel(model, config=config, devices=["cpu", "cpu"])
    assert_same(several.compress(*parts), HomerModel(model, config=config).compress(*parts))


def test_watchers_are_told_of_every_node_by_the_thread_that_called() -> None:
    several, one = pair(2, True)
    parts = random_ids(4, 700, 5)
    seen: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
    threads = set()

    def watch(node: Node, ours: bool) -> None:
        threads.add(threading.get_ident())
        assert len(node.chunk) <= node.length
        assert all(node.chunk is not chunk for chunk in node.pending)
        seen[ours].append((node.level, node.index, node.length))

    several.compress(*parts, watch=functools.partial(watch, ours=True))
    one.compress(*parts, watch=functools.partial(watch, ours=False))
    assert sorted(seen[True]) == sorted(seen[False])
    assert threads == {threading.get_ident()}


def test_what_a_watcher_raises_ends_the_work() -> None:
    several, one = pair(2, True)
    seen: list[Node] = []

    def stop(node: Node) -> None:
        seen.append(node)
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        several.compress(*random_ids(4, 3000, 5), watch=stop)
    assert len(seen) == 1
    parts = random_ids(4, 300, 5)
    assert_same(several.compress(*parts), one.compress(*parts))  # and nothing is left of it


def test_what_fails_on_a_device_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    several = HomerModel(tiny_llama(), config=CONFIG, devices=["cpu", "cpu"])
    assert several._replicas is not None

    def run(*args: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(several._replicas.decoders[1], "run", run)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        several.compress(*random_ids(4, 700, 5))


def test_threads_share_the_devices() -> None:
    several, one = pair(2, True)
    inputs = [random_ids(4, 150 + 90 * i, 5, seed=i) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda parts: several.compress(*parts), inputs))
    for cache, parts in zip(together, inputs, strict=True):
        assert_same(cache, one.compress(*parts))


def test_without_threads_and_in_inference_mode() -> None:
    several, one = pair(2, True)
    assert several._replicas is not None
    plain = HomerModel(one.model, config=CONFIG, fast=True)
    plain._replicas = Replicas(several._replicas.decoders, threads=False)
    parts = random_ids(4, 500, 5)
    expected = one.compress(*parts)
    assert_same(plain.compress(*parts), expected)
    with torch.inference_mode():
        assert_same(several.compress(*parts), expected)


def test_steps_come_after_what_they_take() -> None:
    plan = pair(2, True)[1].plan(4, 1000, 5)
    steps = list(steps_of(plan, 3, WholeLeaves(4).batches(plan)))
    done = set()
    for step in steps:
        assert set(step.takes) <= done
        done |= set(step.makes)
    made = [place for step in steps for place in step.makes]
    assert len(made) == len(set(made)) == sum(map(len, plan.lengths))
    assert {step.device for step in steps} == {0, 1, 2}


def test_a_moved_chunk_is_whole() -> None:
    several, _ = pair(2, True)
    chunks = []
    several.compress(*random_ids(4, 100, 5), watch=lambda node: chunks.append(node.chunk))
    there = moved(chunks[0], torch.device("meta"))
    assert {t.device.type for t in (there.hidden_states, there.position_ids, there.tokens, there.scores)} == {"meta"}
    assert all(t.device.type == "meta" for layer in there.entries for t in layer)
    assert moved(chunks[0], torch.device("cpu")) is chunks[0]
