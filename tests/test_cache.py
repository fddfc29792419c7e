import json
from pathlib import Path

import pytest
import torch
from conftest import random_ids, tiny_llama
from safetensors import safe_open
from safetensors.torch import save_file

from homer import CacheError, CompactCache, HomerConfig, HomerModel


@pytest.fixture(scope="module")
def cache(tiny: HomerModel) -> CompactCache:
    return tiny.compress(*random_ids(4, 200, 5))


def test_saved_and_loaded_it_answers_the_same(tiny: HomerModel, cache: CompactCache, tmp_path: Path) -> None:
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    loaded = CompactCache.load(path)
    assert tiny.generate(loaded, 10) == tiny.generate(cache, 10)
    settings = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2, significance="paper")
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


@pytest.mark.parametrize("place", [2000, -10])
def test_a_flipped_byte_is_noticed(cache: CompactCache, tmp_path: Path, place: int) -> None:
    path = tmp_path / "cache.safetensors"
    cache.save(path)
    data = bytearray(path.read_bytes())
    place = place if place < 0 else len(data) // 2
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheError, match="damaged"):
        CompactCache.load(path)


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
