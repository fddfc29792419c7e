"""What every decoder does; and layers as weights against the model's own."""

import pytest
import torch
from conftest import tiny_llama

from homer.backends.base import Decoder, take_rows
from homer.backends.fused import FusedDecoder, make_decoder
from homer.backends.kernels.plain import EAGER
from homer.backends.layers import FusedLayers
from homer.backends.reference import ReferenceDecoder


def test_both_decoders_know_the_same_of_a_model() -> None:
    model = tiny_llama()
    reference, fused = ReferenceDecoder(model), make_decoder(model, fast=True)
    assert isinstance(fused, FusedDecoder)
    for name in ("layers", "window", "sliding_window", "heads", "vocabulary", "dtype", "device", "rope", "fingerprint"):
        assert getattr(fused, name) == getattr(reference, name), name
    with pytest.raises(TypeError, match="abstract"):
        Decoder(model)  # type: ignore[abstract]


def test_rows_are_taken() -> None:
    x = torch.arange(12.0).view(2, 3, 2)
    assert take_rows(x, None) is x
    assert take_rows(x, torch.tensor([[0, 2], [1, 2]])).tolist() == [[[0, 1], [4, 5]], [[8, 9], [10, 11]]]


def test_layers_as_weights_give_the_models_logits() -> None:
    decoder = ReferenceDecoder(tiny_llama())
    layers = FusedLayers(decoder.causal_lm, EAGER)
    hidden = layers.embed(torch.arange(5)[None])
    assert hidden.shape == layers.room(1, hidden).shape[1:3] + hidden.shape[2:]
    expected = decoder.causal_lm.lm_head(decoder.causal_lm.get_decoder().norm(hidden + hidden))
    torch.testing.assert_close(layers.head(hidden, hidden), expected)
    assert (layers.vocabulary, layers.device) == (decoder.vocabulary, decoder.device)
