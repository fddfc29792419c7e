"""The fast path against the simple one, which is the reference."""

from typing import Any

import pytest
import torch
from architectures import SUPPORTED, build
from conftest import random_ids, tiny_llama

from homer import HomerConfig, HomerModel, UnsupportedModelError
from homer.backends.fused import FusedDecoder
from homer.backends.graph import GraphSteps
from homer.backends.kernels import plain as kernels_module
from homer.backends.kernels.plain import EAGER, compiled
from homer.backends.reference import ReferenceDecoder

KNOWN = ("llama-2", "llama-3.1", "mistral", "qwen2", "qwen3")
CONFIG = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2, chunk_batch_size=3)


def pair(name: str) -> tuple[HomerModel, HomerModel]:
    """The same model by the fast path and by the simple one."""
    model = build(*SUPPORTED[name])
    fast, simple = HomerModel(model, config=CONFIG, fast=True), HomerModel(model, config=CONFIG, fast=False)
    assert isinstance(fast.decoder, FusedDecoder)
    assert type(simple.decoder) is ReferenceDecoder
    return fast, simple


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("context_len", [20, 333])
def test_the_fast_path_equals_the_simple_one(name: str, context_len: int) -> None:
    fast, simple = pair(name)
    parts = random_ids(4, context_len, 6, seed=context_len, vocabulary=199)
    ours, reference = fast.compress(*parts), simple.compress(*parts)
    assert ours.kept_tokens.tolist() == reference.kept_tokens.tolist()
    torch.testing.assert_close(ours.logits, reference.logits, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ours.relevance, reference.relevance, atol=2e-5, rtol=1e-4)
    for a, b in zip((*ours.keys, *ours.values), (*reference.keys, *reference.values), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    assert fast.generate(ours, 12).token_ids == simple.generate(reference, 12).token_ids
    new = random_ids(5, vocabulary=199)[0]
    torch.testing.assert_close(fast.forward(new, ours), simple.forward(new, reference), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", KNOWN)
def test_steps_on_fixed_places_equal_the_simple_ones(name: str) -> None:
    fast, simple = pair(name)
    cache = simple.compress(*random_ids(4, 200, 6, vocabulary=199))
    entries = (cache.entries, cache.next_position, 70)
    assert isinstance(fast.decoder, FusedDecoder)
    ours, reference = GraphSteps(fast.decoder.parts, *entries), simple.decoder.steps(*entries)
    for token in random_ids(6, vocabulary=199)[0]:
        ours.token.copy_(token)
        ours.step()  # what a GPU replays
        torch.testing.assert_close(ours.logits, reference(token), atol=2e-5, rtol=1e-4)
    assert cache.keys[0].shape[2] == len(cache)  # left as it was


@pytest.mark.parametrize("name", ["mixtral", "gemma2", "phi3", "granite"])
def test_other_families_take_the_simple_path(name: str) -> None:
    model = build(*SUPPORTED[name])
    assert type(HomerModel(model, config=CONFIG).decoder) is ReferenceDecoder
    with pytest.raises(UnsupportedModelError, match=r"no fast path: its family is .*; leave fast=None"):
        HomerModel(model, config=CONFIG, fast=True)


def altered(change: str) -> Any:
    model = tiny_llama()
    if change == "a wrapped projection":
        model.model.layers[1].mlp.up_proj = torch.nn.Sequential(model.model.layers[1].mlp.up_proj)
    elif change == "eager attention":
        model.set_attn_implementation("eager")
    elif change == "another layer":
        norm = model.model.layers[0].input_layernorm
        norm.register_forward_hook(lambda module, inputs, output: output * 1.5)
    return model


@pytest.mark.parametrize("change", ["a wrapped projection", "eager attention", "another layer"])
def test_a_model_that_was_altered_has_no_fast_path(change: str) -> None:
    with pytest.raises(UnsupportedModelError, match="has no fast path"):
        HomerModel(altered(change), config=CONFIG, fast=True)


def arguments(length: int) -> dict[str, tuple[Any, ...]]:
    """For each kernel what it might be given; what it writes to holds zeros."""
    torch.manual_seed(length)
    stack, places = torch.randn(4, length, 16), torch.randint(0, length, (5,))
    keys, values = torch.zeros(2, 1, 64 * length, 2, 8)
    return {
        "blend_rows": (
            torch.zeros(4, 5, 16),
            stack,
            stack.flip(1),
            places,
            places.flip(0),
            torch.rand(5),
            torch.rand(5),
        ),
        "write_kv": (keys, values, places[:1], *torch.randn(2, 1, 1, 2, 8), None, 1e-5, *torch.randn(2, 1, 1, 8)),
    }


@pytest.mark.parametrize("kernel", list(arguments(7)))
def test_a_compiled_kernel_equals_the_plain_one_at_any_length(kernel: str) -> None:
    for length in (7, 12):
        ours, plain = arguments(length)[kernel], arguments(length)[kernel]
        given = getattr(compiled(), kernel)(*ours), getattr(EAGER, kernel)(*plain)
        torch.testing.assert_close(given[0], given[1])
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b)


def test_every_kernel_says_what_changes() -> None:
    assert sorted([*kernels_module._CHANGING, *kernels_module._BY_HAND]) == sorted(vars(EAGER))
