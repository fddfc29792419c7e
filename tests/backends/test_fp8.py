"""Products in FP8 where rows are many; off the GPU they are computed from the same 8 bits by wider numbers."""

import pytest
import torch
from conftest import random_ids, tiny_llama

from homer import ConfigError, HomerConfig, HomerModel, UnsupportedModelError
from homer.backends import fp8
from homer.backends.fp8 import Fp8Projection, Narrow, check_fast
from homer.backends.fused import FusedDecoder
from homer.backends.kernels.plain import EAGER, narrow_rows
from homer.backends.reference import ReferenceDecoder


def test_rows_keep_their_largest_number_and_16_steps_between_powers_of_two() -> None:
    x = torch.randn(50, 64) * torch.logspace(-6, 6, 50)[:, None]
    values, scales = narrow_rows(x)
    assert values.dtype == torch.float8_e4m3fn
    back = values.float() * scales
    torch.testing.assert_close(back.abs().amax(1), x.abs().amax(1))
    assert float(((back - x).abs() / x.abs().amax(1, keepdim=True)).max()) <= 1 / 16
    assert not narrow_rows(torch.zeros(2, 4))[0].float().any()


@pytest.mark.parametrize("rows", [3, fp8.LEAST_ROWS])
@pytest.mark.parametrize("bias", [True, False])
def test_only_products_of_many_rows_are_narrow(rows: int, bias: bool) -> None:
    weight = torch.randn(48, 32)
    plain = fp8.Projection(weight, torch.randn(48) if bias else None)
    narrow, x = Fp8Projection.of(plain, EAGER), torch.randn(1, rows, 32)
    prepared = narrow.prepared(x)
    assert isinstance(prepared, Narrow) == (rows >= fp8.LEAST_ROWS)
    ours, expected, out = narrow(prepared), plain(plain.prepared(x)), torch.empty(1, rows, 6, 8)
    narrow.into(prepared, out)
    assert torch.equal(out.flatten(2), ours)
    gap = (ours - expected).norm() / expected.norm()
    assert float(gap) < 0.05
    assert (gap == 0) == (rows < fp8.LEAST_ROWS)


def test_a_compression_is_nearly_the_same_and_its_cache_another_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8, "LEAST_ROWS", 16)
    model, config = tiny_llama(), HomerConfig(max_chunk_len=64, target_len=64, layers_warmup=2)
    plain, narrow = (HomerModel(model, config=config, fast=True) for _ in range(2))
    narrow.decoder = FusedDecoder(ReferenceDecoder(model), fp8=True)
    ids, places = random_ids(60)[0][None], torch.arange(60)[None]
    expected, ours = (one.decoder.run(0, 1, ids, places).hidden_states for one in (plain, narrow))
    assert 0 < float((ours - expected).norm() / expected.norm()) < 0.2
    assert narrow.decoder.fingerprint != plain.decoder.fingerprint
    few = [one.decoder.run(0, 6, torch.arange(9)[None], torch.arange(9)[None]).logits for one in (plain, narrow)]
    assert torch.equal(*few)


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"takes a GPU of compute capability 8.9, cpu is none"):
        HomerModel(tiny_llama(), fast="fp8")
    with pytest.raises(ConfigError, match=r"fast='faster' is unknown: give True, False, None or 'fp8'"):
        HomerModel(tiny_llama(), fast="faster")
    for fast in (None, True, False):
        check_fast(fast, tiny_llama())
