"""The small parts beneath the backends: what is read off a model, its fingerprint, its second tree, and its blocks."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from homer import UnsupportedModelError
from homer.backends.architecture import check_architecture, final_norm, shortest_sliding_window
from homer.backends.blocks import FAMILIES, Projection, UnknownBlockError, read_blocks
from homer.backends.fingerprint import fingerprint, plain_tensors, row_sums
from homer.backends.views import copy_module, replace_module, share_weights
from tests.conftest import tiny_llama


def test_what_cannot_be_run_piecewise_is_refused_with_the_reason() -> None:
    shape = {"vocab_size": 8, "n_embd": 8, "n_layer": 1, "n_head": 1, "bos_token_id": 0, "eos_token_id": 0}
    with pytest.raises(UnsupportedModelError, match="no list of decoder layers"):
        check_architecture(GPT2LMHeadModel(GPT2Config(**shape)))
    encoder = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=8)
    with pytest.raises(UnsupportedModelError, match="use a decoder-only model"):
        check_architecture(BertModel(encoder))
    model = tiny_llama()
    check_architecture(model)
    assert final_norm(model.get_decoder()) == "norm"


@dataclasses.dataclass
class Slides:
    sliding_window: int | None
    layer_types: tuple[str, ...] | None = None
    use_sliding_window: bool = True


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Slides(None), None),
        (Slides(64), 64),
        (Slides(64, use_sliding_window=False), None),
        (Slides(64, ("full_attention",)), None),
        (Slides(64, ("full_attention", "sliding_attention")), 64),
    ],
)
def test_a_sliding_window_counts_where_a_layer_slides(config: Slides, expected: int | None) -> None:
    assert shortest_sliding_window(config) == expected


def test_a_fingerprint_changes_with_any_weight_and_with_the_dtype() -> None:
    model = tiny_llama(layers=1)
    before = fingerprint(model, torch.float32)
    assert fingerprint(model, torch.float32) == before
    assert fingerprint(model, torch.bfloat16) != before
    with torch.no_grad():
        rows = model.model.layers[0].mlp.up_proj.weight
        rows[[0, 1]] = rows[[1, 0]]  # the sum over all is the same
    assert fingerprint(model, torch.float32) != before


def test_sums_are_of_bits_and_so_are_exact() -> None:
    weight = torch.tensor([[1e30, 1.0], [-1e30, 2.0]])
    assert row_sums(weight) != row_sums(torch.tensor([[1e30, 1.5], [-1e30, 2.0]]))
    assert list(plain_tensors(weight.to("meta"))) == []


def test_a_second_tree_shares_every_weight_and_leaves_the_first_alone() -> None:
    model = tiny_llama(layers=1)
    attention = model.config._attn_implementation
    twin = share_weights(model)
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert twin.config._attn_implementation != attention == model.config._attn_implementation
    layer = twin.model.layers[0]
    other = replace_module(twin, layer.mlp, nn.Identity())
    assert isinstance(other.model.layers[0].mlp, nn.Identity)
    assert twin.model.layers[0].mlp is layer.mlp
    copied = copy_module(layer)
    copied._modules.pop("mlp")
    assert "mlp" in layer._modules


def test_blocks_are_read_of_known_families_and_of_no_other() -> None:
    model = tiny_llama(layers=2)
    blocks = read_blocks(model)
    assert len(blocks) == 2
    assert blocks[0].query.weight is model.model.layers[0].self_attn.q_proj.weight
    model.config.model_type = "strange"
    with pytest.raises(UnknownBlockError, match="its family is strange"):
        read_blocks(model)
    assert "llama" in FAMILIES


@pytest.mark.parametrize("bias", [None, torch.randn(6)])
def test_a_projection_writes_what_it_gives(bias: torch.Tensor | None) -> None:
    projection = Projection(torch.randn(6, 4), bias)
    x, out = torch.randn(2, 3, 4), torch.empty(2, 3, 2, 3)
    projection.into(x, out)
    torch.testing.assert_close(out.flatten(2), projection(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_attention_of_one_token_is_softmax_over_the_places_that_count() -> None:
    from homer.backends.kernels.decoding import decode_attention

    query, last = torch.randn(1, 1, 4, 32, device="cuda"), torch.tensor([99], device="cuda")
    keys, values = torch.randn(2, 1, 192, 2, 32, device="cuda")
    shares = (query[0, 0].view(2, 2, 32) @ keys[0, :100].permute(1, 2, 0) * 0.2).softmax(-1)
    expected = (shares @ values[0, :100].transpose(0, 1)).reshape(1, 1, 128)
    torch.testing.assert_close(decode_attention(query, keys, values, last, 0.2), expected, rtol=1e-3, atol=1e-3)
