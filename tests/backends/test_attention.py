"""What reaches an attention function that is not sdpa or eager, as flash attention is."""

from typing import Any

import pytest
import torch
from conftest import random_ids, tiny_llama
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from homer import ConfigError, HomerConfig, HomerModel, UnsupportedModelError

CALLS: list[tuple[str, set[str]]] = []


def flash_like(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
    """Reads its own name in the configuration, as flash attention does."""
    CALLS.append((module.config._attn_implementation, set(kwargs)))
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)


def test_flash_attention_sees_its_own_name_and_no_position_ids() -> None:
    AttentionInterface.register("own_attention", flash_like)
    AttentionMaskInterface.register("own_attention", sdpa_mask)
    config = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2)
    parts = random_ids(4, 200, 5)
    expected = HomerModel(tiny_llama(), config=config).compress(*parts)
    model = tiny_llama()
    model.set_attn_implementation("own_attention")
    CALLS.clear()
    cache = HomerModel(model, config=config).compress(*parts)
    assert cache.kept_tokens.tolist() == expected.kept_tokens.tolist()
    torch.testing.assert_close(cache.logits, expected.logits)
    assert {name for name, _ in CALLS} == {"own_attention"}
    assert not any("position_ids" in names or "homer_observer" in names for _, names in CALLS)


def test_an_attention_that_is_not_installed_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedModelError, match="FlashAttention2"):
        HomerModel.from_pretrained("mini", attn_implementation="flash_attention_2")


def test_a_dtype_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="dtype='float3' is none"):
        HomerModel.from_pretrained("mini", dtype="float3")
