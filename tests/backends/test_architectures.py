from typing import Any

import pytest
import torch
from architectures import REFUSED, SUPPORTED, build
from conftest import random_ids

from homer import ConfigError, HomerConfig, HomerModel, UnsupportedModelError

CONFIG = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2)


def parts(context_len: int, seed: int = 0) -> list[torch.Tensor]:
    return random_ids(4, context_len, 6, seed=seed, vocabulary=199)


@pytest.fixture(params=SUPPORTED, ids=str)
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return SUPPORTED[request.param]


def test_every_architecture(case: tuple[str, dict[str, Any]]) -> None:
    plain = build(*case)
    model = HomerModel(plain, config=CONFIG)
    check_one_chunk_is_the_plain_model(model, plain)
    check_batched_leaves_equal_depth_first(model)
    check_generate_equals_a_manual_loop(model)


def check_one_chunk_is_the_plain_model(model: HomerModel, plain: Any) -> None:
    ids = parts(20)
    cache = model.compress(*ids)
    whole = torch.cat(ids)[None]
    torch.testing.assert_close(cache.logits, plain(whole).logits[:, -1].float(), atol=2e-5, rtol=1e-5)
    new = plain.generate(whole, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, whole.shape[1] :]
    assert model.generate(cache, 8).token_ids == new.tolist()


def check_batched_leaves_equal_depth_first(model: HomerModel) -> None:
    single = model.compress(*parts(150))
    batched = model.compress(*parts(150), config=HomerConfig(**CONFIG.to_dict() | {"chunk_batch_size": 4}))
    assert len(single) == 32
    assert batched.kept_tokens.tolist() == single.kept_tokens.tolist()
    torch.testing.assert_close(batched.logits, single.logits, atol=2e-4, rtol=1e-4)


def check_generate_equals_a_manual_loop(model: HomerModel) -> None:
    for refresh in (True, False):
        config = HomerConfig(**CONFIG.to_dict() | {"refresh_suffix": refresh})
        cache = model.compress(*parts(150), config=config)
        logits, expected = cache.logits, []
        for _ in range(8):
            expected.append(int(logits.argmax()))
            logits = model.forward(expected, cache)[:, -1]
        assert model.generate(cache, 8).token_ids == expected
        assert model.generate(cache, 8, no_repeat_ngram_size=50).token_ids == expected  # by transformers' own generate


@pytest.mark.parametrize("name", [name for name in SUPPORTED if name != "gemma2"])  # its softcap needs eager
def test_sdpa_equals_eager(name: str) -> None:
    case = SUPPORTED[name]
    caches = [
        HomerModel(build(*case, attention=kind), config=CONFIG).compress(*parts(150)) for kind in ("sdpa", "eager")
    ]
    assert caches[0].kept_tokens.tolist() == caches[1].kept_tokens.tolist()
    torch.testing.assert_close(caches[0].logits, caches[1].logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str) -> None:
    config_class, options, words = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=words):
        HomerModel(build(config_class, options))


def test_a_sliding_window_shorter_than_a_chunk_is_refused() -> None:
    model = build("MistralConfig", {"sliding_window": 24})
    with pytest.raises(ConfigError, match="max_chunk_len=32 is longer than the model's sliding attention window of 24"):
        HomerModel(model, config=CONFIG)
    assert len(HomerModel(model).compress(*parts(100))) == 110  # fits the window: the model's own business
    assert len(HomerModel(model).compress(*parts(300))) <= 24


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = HomerModel(build(*SUPPORTED["llama-3.1"]).to(dtype), config=CONFIG)
    cache = model.compress(*parts(150))
    assert all(key.dtype == dtype for key in cache.keys)
    assert cache.logits.dtype == torch.float32
    assert len(model.generate(cache, 5).token_ids) == 5
