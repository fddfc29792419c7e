import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import random_ids, tiny_llama

from homer import CompactCache, HomerConfig, HomerModel
from homer.merging.merge import compress
from homer.merging.node import Node


def test_one_chunk_with_nothing_pruned_is_the_plain_model(tiny: HomerModel) -> None:
    prefix, context, suffix = random_ids(5, 20, 6)
    cache = tiny.compress(prefix, context, suffix)
    ids = torch.cat([prefix, context, suffix])[None]
    torch.testing.assert_close(cache.logits, tiny.model(ids).logits[:, -1], atol=1e-5, rtol=1e-5)
    assert cache.kept_tokens.tolist() == list(range(31))
    new = tiny.model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, 31:]
    assert tiny.generate(cache, 12).token_ids == new.tolist()


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("context_len", [50, 200, 333, 1000])
def test_batched_leaves_equal_depth_first(tiny: HomerModel, context_len: int, refresh: bool) -> None:
    parts = random_ids(4, context_len, 5, seed=context_len)
    config = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2, refresh_suffix=refresh)
    single = tiny.compress(*parts, config=config)
    for size in (2, 5, 64):
        batched = tiny.compress(*parts, config=HomerConfig(**config.to_dict() | {"chunk_batch_size": size}))
        assert batched.kept_tokens.tolist() == single.kept_tokens.tolist()
        torch.testing.assert_close(batched.logits, single.logits, atol=1e-4, rtol=1e-4)


def test_the_affix_and_the_order_survive(tiny: HomerModel) -> None:
    cache = tiny.compress(*random_ids(4, 300, 5))
    kept = cache.kept_tokens.tolist()
    assert kept == sorted(kept)
    assert kept[:4] == [0, 1, 2, 3]
    assert kept[-5:] == [304, 305, 306, 307, 308]
    assert len(kept) == 31  # 23 tokens of room give each child of the root 11
    assert cache.input_tokens == 309
    assert int(cache.position_ids.max()) < 32
    assert cache.next_position == int(cache.position_ids[0, -1]) + 1
    assert all(key.shape == (1, 2, 31, 8) for key in cache.keys)


def test_a_deep_tree_still_gives_the_target_length() -> None:
    model = HomerModel(tiny_llama(layers=3), config=HomerConfig(max_chunk_len=16, target_len=16, layers_warmup=1))
    cache = model.compress(*random_ids(2, 900, 3))
    assert len(cache) == 15  # 11 tokens of room give each child 5
    assert len(model.generate(cache, 4).token_ids) == 4


def test_memory_grows_with_the_logarithm_of_the_context(tiny: HomerModel) -> None:
    peaks = {}
    for context_len in (200, 800, 3200, 12800):
        ids = torch.cat(random_ids(4, context_len, 5))
        plan = tiny.plan(4, context_len, 5)
        entries: list[int] = []

        def count(node: Node, entries: list[int] = entries) -> None:
            entries.append(node.length * len(node.chunk.entries) + sum(chunk.held for chunk in node.pending))

        compress(tiny.decoder, plan, ids, watch=count)
        peaks[context_len] = max(entries)
    a_chunk = 32 * tiny.decoder.layers
    for context_len, peak in peaks.items():
        assert peak <= a_chunk * (2 + math.log2(context_len / 23))
    assert peaks[12800] - peaks[3200] <= 2 * a_chunk  # four times the context: two more pending chunks


def test_threads_give_the_single_thread_results(tiny: HomerModel) -> None:
    inputs = [random_ids(4, 150 + 20 * i, 5, seed=i) for i in range(8)]
    expected = [tiny.compress(*parts) for parts in inputs]
    barrier = threading.Barrier(8)

    def work(parts: list[torch.Tensor]) -> list[tuple[CompactCache, list[int]]]:
        barrier.wait()
        found = []
        for _ in range(3):
            cache = tiny.compress(*parts)
            found.append((cache, tiny.generate(cache, 6).token_ids))
        return found

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, inputs))
    for alone, together in zip(expected, results, strict=True):
        for cache, token_ids in together:
            assert cache.kept_tokens.tolist() == alone.kept_tokens.tolist()
            torch.testing.assert_close(cache.logits, alone.logits)
            assert token_ids == tiny.generate(alone, 6).token_ids


def test_nothing_of_the_users_model_changes() -> None:
    model = tiny_llama()
    before = dict(model.__dict__), model.config.to_dict(), model.config._attn_implementation
    forward, state = type(model).forward, {k: v.clone() for k, v in model.state_dict().items()}
    homer = HomerModel(model, config=HomerConfig(max_chunk_len=32))
    homer.generate(homer.compress(*random_ids(4, 100, 5)), 3)
    assert (dict(model.__dict__), model.config.to_dict(), model.config._attn_implementation) == before
    assert type(model).forward is forward
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(p is q for p, q in zip(model.parameters(), homer.decoder.causal_lm.parameters(), strict=True))


def test_refresh_runs_the_real_suffix_on_the_compressed_context(tiny: HomerModel) -> None:
    prefix, context, suffix = random_ids(4, 300, 5)
    cache = tiny.compress(prefix, context, suffix)
    body = cache.to_dynamic_cache(end=-5)
    logits = tiny.model(
        suffix[None], past_key_values=body, position_ids=cache.position_ids[:, -5:], use_cache=True
    ).logits
    torch.testing.assert_close(cache.logits, logits[:, -1], atol=1e-5, rtol=1e-5)
    assert float(cache.relevance.sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("refresh", [True, False])
def test_a_single_chunk_is_pruned_at_its_end(tiny: HomerModel, refresh: bool) -> None:
    config = HomerConfig(max_chunk_len=32, target_len=16, layers_warmup=2, refresh_suffix=refresh)
    cache = tiny.compress(*random_ids(4, 20, 4), config=config)
    assert len(cache) == len(cache.relevance) == 16
    assert cache.kept_tokens.tolist()[:4] == [0, 1, 2, 3]
