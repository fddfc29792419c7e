"""A context encoded once answers as one compressed from scratch."""

from typing import Any

import pytest
import torch
from architectures import SUPPORTED, build
from conftest import random_ids, tiny_llama

from homer import CacheError, CompactCache, ConfigError, HomerConfig, HomerModel, InputError

CONFIG = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2)


def same(model: HomerModel, found: CompactCache, expected: CompactCache) -> None:
    assert found.kept_tokens.tolist() == expected.kept_tokens.tolist()
    assert found.position_ids.tolist() == expected.position_ids.tolist()
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert found.survived.tolist() == expected.survived.tolist()
    assert found.plan == expected.plan
    torch.testing.assert_close(found.logits, expected.logits, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(found.relevance, expected.relevance, atol=1e-4, rtol=1e-3)
    for a, b in zip((*found.keys, *found.values), (*expected.keys, *expected.values), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)
    assert model.generate(found, 6).token_ids == model.generate(expected, 6).token_ids


def compare(model: HomerModel, lengths: tuple[int, int, int], budget: int, lens: Any = None, **changes: Any) -> None:
    prefix, context, suffix = random_ids(*lengths, seed=sum(lengths), vocabulary=model.decoder.vocabulary)
    settings = CONFIG.to_dict() | changes | {"suffix_budget": budget}
    expected = model.compress(prefix, context, suffix, document_lens=lens, config=HomerConfig(**settings))
    encoded = model.encode(context, prefix=prefix, suffix_budget=budget, config=HomerConfig(**settings))
    same(model, model.compress(encoded, suffix), expected)


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_architecture(name: str) -> None:
    compare(HomerModel(build(*SUPPORTED[name]), config=CONFIG), (4, 150, 6), 8)


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize(
    ("lengths", "budget"),
    [((4, 20, 6), 6), ((0, 50, 5), 9), ((4, 333, 1), 5), ((7, 1000, 9), 9), ((3, 90, 3), 12), ((1, 2, 4), 4)],
)
def test_any_lengths(tiny: HomerModel, lengths: tuple[int, int, int], budget: int, refresh: bool) -> None:
    compare(tiny, lengths, budget, refresh_suffix=refresh)
