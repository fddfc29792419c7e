"""Models with sliding attention windows: whole where they fit, and cut no longer than they see."""

from typing import Any

import pytest
import torch
from architectures import SUPPORTED, build
from conftest import random_ids

from homer import ConfigError, HomerConfig, HomerModel, UnsupportedModelError

HEADS = {"head_dim": 8, "query_pre_attn_scalar": 8}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-oss": (
        "GptOssConfig",
        {
            "head_dim": 8,
            "sliding_window": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "gemma2": ("Gemma2Config", HEADS | {"sliding_window": 32}),
    "gemma3": ("Gemma3TextConfig", SUPPORTED["gemma3"][1] | {"sliding_window": 32}),
    "mistral": ("MistralConfig", {"sliding_window": 32}),
    "mixtral": ("MixtralConfig", {"sliding_window": 32, "num_local_experts": 4}),
    "phi3": ("Phi3Config", {"sliding_window": 32}),
    "qwen2": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2}),
    "qwen3": ("Qwen3Config", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2, "head_dim": 8}),
    "cohere2": ("Cohere2Config", {"sliding_window": 32, "head_dim": 8}),
    "olmo3": ("Olmo3Config", {"sliding_window": 32}),
}


@pytest.fixture(params=MODELS, ids=str)
def plain(request: pytest.FixtureRequest) -> Any:
    return build(*MODELS[request.param])


def greedy(plain: Any, parts: list[torch.Tensor], count: int = 8) -> list[int]:
    whole = torch.cat(parts)[None]
    options = {"attention_mask": torch.ones_like(whole), "do_sample": False, "pad_token_id": 0}
    return plain.generate(input_ids=whole, max_new_tokens=count, **options)[0, whole.shape[1] :].tolist()


def test_what_fits_the_window_is_answered_as_by_the_plain_model(plain: Any) -> None:
    model = HomerModel(plain, calibration=False)
    for length in (20, 220):  # the window is 256, the sliding one 16 or 32
        parts = random_ids(4, length, 6, vocabulary=199)
        cache = model.compress(*parts)
        assert len(cache) == length + 10
        torch.testing.assert_close(cache.logits, plain(torch.cat(parts)[None]).logits[:, -1].float(), atol=1e-4, rtol=0)
        assert model.generate(cache, 8).token_ids == greedy(plain, parts)


def test_transformers_own_generate_goes_on_from_it() -> None:
    plain = build(*MODELS["gemma3"])
    model, parts = HomerModel(plain, calibration=False), random_ids(4, 220, 6, vocabulary=199)
    found = model.generate(model.compress(*parts), 8, no_repeat_ngram_size=99)
    assert found.token_ids == greedy(plain, parts)


def test_encoded_before_it_is_the_same(plain: Any) -> None:
    model = HomerModel(plain, calibration=False)
    prefix, context, suffix = parts = random_ids(4, 120, 6, vocabulary=199)
    encoded = model.encode(context, prefix=prefix, suffix_budget=20)
    cache = model.compress_encoded(encoded, suffix)
    assert len(cache) == 130
    torch.testing.assert_close(cache.logits, plain(torch.cat(parts)[None]).logits[:, -1].float(), atol=1e-4, rtol=0)
    assert model.generate(cache, 8).token_ids == greedy(plain, parts)


def test_beyond_the_window_chunks_fit_what_it_sees(plain: Any) -> None:
    model = HomerModel(plain, calibration=False)
    sliding = model.decoder.sliding_window
    plan = model.plan(2, 300, 3)
    assert max(max(row) for row in plan.lengths) <= sliding
    cache = model.compress(*random_ids(2, 300, 3, vocabulary=199))
    assert len(cache) == plan.final_len == sliding - sliding // 8  # new tokens see all of it
    assert len(model.generate(cache, 5).token_ids) == 5


def test_a_sliding_window_that_the_affix_fills_is_refused() -> None:
    model = HomerModel(build(*MODELS["gpt-oss"]), calibration=False)
    words = r"310 tokens must be read in chunks no longer than its sliding attention window of 16 tokens, .* take 10"
    with pytest.raises(UnsupportedModelError, match=words):
        model.compress(*random_ids(4, 300, 6, vocabulary=199))
    with pytest.raises(UnsupportedModelError, match="sliding attention window of 16"):
        model.encode(torch.arange(199), prefix=torch.arange(4), suffix_budget=80)
    assert len(model.compress(*random_ids(4, 246, 6, vocabulary=199))) == 256


def test_large_windows_with_short_sight() -> None:
    gpt_oss, gemma = MODELS["gpt-oss"], MODELS["gemma3"]
    wide = {"max_position_embeddings": 131_072, "sliding_window": 128}
    model = HomerModel(build(gpt_oss[0], gpt_oss[1] | wide), calibration=False)
    assert len(model.compress(*random_ids(20, 216, 20, vocabulary=199))) == 256
    assert not model.plan(20, 131_000, 20).prunes
    model = HomerModel(build(gemma[0], gemma[1] | {"max_position_embeddings": 32_768, "sliding_window": 512}))
    assert len(model.compress(*random_ids(20, 816, 20, vocabulary=199))) == 856
    assert model.plan(20, 40_000, 20).final_len == 448


def test_settings_of_ones_own_are_kept() -> None:
    model = HomerModel(build(*MODELS["mistral"]), calibration=False)
    parts = random_ids(4, 100, 6, vocabulary=199)
    assert len(model.compress(*parts, config=HomerConfig(max_chunk_len=24))) == 24
    assert len(model.compress(*parts, config=HomerConfig(target_len=50))) == 50  # one chunk, pruned at its end
    assert len(model.compress(*parts, config=HomerConfig(max_chunk_len=110))) == 110
    with pytest.raises(ConfigError, match="max_chunk_len=64 is longer than the model's sliding attention window of 32"):
        model.compress(*parts, config=HomerConfig(max_chunk_len=64))
    with pytest.raises(ConfigError, match="sliding attention window of 32"):
        HomerModel(model.model, config=HomerConfig(max_chunk_len=64))


def test_leaves_that_end_with_documents_are_for_what_does_not_fit() -> None:
    model = HomerModel(build(*MODELS["mistral"]), calibration=False)
    parts = random_ids(4, 100, 6, vocabulary=199)
    assert len(model.compress(*parts, document_lens=[50, 50])) == 28
