import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_ids, tiny_llama
from safetensors import safe_open
from safetensors.torch import save_file
from small import damaged

from homer import CacheError, CompactCache, HomerConfig, HomerModel
from homer.base.tensorfile import write_tensors


@pytest.fixture(scope="module")
def cache(tiny: HomerModel) -> CompactCache:
    return tiny.compress(*random_ids(4, 200, 5))


def test_saved_and_loaded_it_answers_the_same(tiny: HomerModel, cache: CompactCache, tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    loaded = CompactCache.load(path)
    assert tiny.generate(loaded, 10) == tiny.generate(cache, 10)
    settings = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2, significance="paper", chunk_batch_size=1)
    assert loaded.config == cache.config == settings
    assert loaded.input_tokens == 209
    assert [p.name for p in tmp_path.iterdir()] == ["cache.safetensors"]
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["homer"])
    assert set(facts["versions"]) == {"homer", "torch", "transformers", "python"}


def test_another_model_refuses_it(cache: CompactCache) -> None:
    for other in (tiny_llama(seed=1), tiny_llama().to(torch.bfloat16)):
        with pytest.raises(CacheError, match="compress with this model"):
            HomerModel(other).generate(cache, 3)


def test_a_flipped_byte_is_noticed(cache: CompactCache, tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    data = path.read_bytes()
    for at in (len(data) // 2, -10):
        path.write_bytes(damaged(data, at))
        with pytest.raises(CacheError, match="damaged"):
            CompactCache.load(path)


def test_every_byte_of_the_metadata_is_covered(cache: CompactCache, tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little")
    facts = cache._metadata()
    for at in range(0, 8 + header, 3):
        path.write_bytes(damaged(data, at))
        try:
            loaded = CompactCache.load(path)
        except CacheError:
            continue
        assert loaded._metadata() == facts  # a space between two fields
        assert torch.equal(loaded.logits, cache.logits)


def edited(facts: dict[str, Any]) -> Iterator[str]:
    """The metadata with one fact changed or gone, as text."""
    yield from ("", "{", "[]", "null", '"text"', "[" * 100_000, "{}")
    for name in facts:
        for value in (None, -1, 61, "text", [], {}, [1], {"max_chunk_len": "x"}, 1e300):
            if facts[name] != value:
                yield json.dumps(facts | {name: value})
        yield json.dumps({other: value for other, value in facts.items() if other != name})


def test_no_edit_of_the_metadata_is_believed(cache: CompactCache, tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for text in edited(json.loads(metadata["homer"])):
        save_file(tensors, path, metadata | {"homer": text})
        with pytest.raises(CacheError):
            CompactCache.load(path)
    for text in ("{", "[]", "[" * 100_000, "{}", '{"format": 1}', '{"format": 2}', '{"format": 2, "layers": "x"}'):
        write_tensors(path, tensors, {"homer": text})  # whole, but nothing that `save` writes
        with pytest.raises(CacheError):
            CompactCache.load(path)


def test_a_loaded_cache_does_not_change_with_its_file(cache: CompactCache, tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    loaded = CompactCache.load(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert all(torch.equal(a, b) for a, b in zip(loaded.keys, cache.keys, strict=True))
    os.truncate(path, 0)  # which would kill a process that reads it through a map
    assert all(torch.equal(a, b) for a, b in zip(loaded.values, cache.values, strict=True))
    assert torch.equal(loaded.logits, cache.logits)


def test_save_where_it_cannot_be_and_by_many_at_once(cache: CompactCache, tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "cache.safetensors", tmp_path):
        with pytest.raises(CacheError, match="cannot be written"):
            cache.save(path)
    path = tmp_path / "cache.safetensors"
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: cache.save(path), range(48)))
    assert len(CompactCache.load(path)) == len(cache)
    assert [p.name for p in tmp_path.iterdir()] == ["cache.safetensors"]


def test_other_bad_files(cache: CompactCache, tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    (tmp_path / "short").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "text").write_text("hello")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    for name, words in (
        ("short", "damaged"),
        ("text", "damaged"),
        ("foreign", "no compact cache"),
        ("none", "no compact"),
    ):
        with pytest.raises(CacheError, match=words):
            CompactCache.load(tmp_path / name)


def test_to_dynamic_cache_is_a_copy(cache: CompactCache) -> None:
    states = cache.to_dynamic_cache(batch_size=2)
    assert states.get_seq_length() == len(cache)
    assert states.layers[0].keys.shape[0] == 2
    states.layers[0].keys.zero_()
    assert cache.keys[0].abs().sum() > 0
    assert cache.nbytes == 2 * 6 * 2 * len(cache) * 8 * 4
