"""The GPU kernels written by hand compute what the plain functions do.

They run on a GPU; or, where Triton is installed, by its interpreter: TRITON_INTERPRET=1 pytest tests/test_fused.py
"""

import os
from types import ModuleType

import pytest
import torch

from homer.backends.kernels.plain import EAGER

SHAPES = [(1, 7, 4, 2, 8), (2, 70, 3, 1, 12), (1, 1, 8, 8, 64)]  # batch, length, heads, key heads, head dim
CLOSE = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.bfloat16: {"atol": 8e-2, "rtol": 2e-2}}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
both = pytest.mark.parametrize("dtype", CLOSE)
shapes = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def pointwise() -> ModuleType:
    pytest.importorskip("triton", reason="Triton is not installed: it comes with PyTorch for NVIDIA GPUs")
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU, and TRITON_INTERPRET is not 1")
    from homer.backends.kernels import pointwise

    return pointwise


@both
def test_norms_and_gate(pointwise: ModuleType, dtype: torch.dtype) -> None:
    x, y, weight = (
        torch.randn(2, 9, 24, dtype=dtype, device=DEVICE),
        torch.randn(2, 9, 24, dtype=dtype, device=DEVICE),
        torch.randn(24, dtype=dtype, device=DEVICE),
    )
    torch.testing.assert_close(pointwise.rms_norm(x, weight, 1e-5), EAGER.rms_norm(x, weight, 1e-5), **CLOSE[dtype])
    torch.testing.assert_close(pointwise.silu_and_mul(x, y), EAGER.silu_and_mul(x, y), **CLOSE[dtype])
    ours, plain = pointwise.add_norm(x, y, weight, 1e-5), EAGER.add_norm(x, y, weight, 1e-5)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, **CLOSE[dtype])


@both
@shapes
@pytest.mark.parametrize("normed", [False, True])
def test_turn(pointwise: ModuleType, dtype: torch.dtype, shape: tuple[int, ...], normed: bool) -> None:
    batch, length, heads, _, dim = shape
    x = torch.randn(batch, length, heads, dim, dtype=dtype, device=DEVICE)
    cos, sin = torch.randn(2, batch, length, dim, dtype=dtype, device=DEVICE)
    norm = torch.randn(dim, dtype=dtype, device=DEVICE) if normed else None
    ours, plain = torch.zeros_like(x), torch.zeros_like(x)
    pointwise.apply_rotary(x, norm, 1e-5, cos, sin, ours)
    EAGER.apply_rotary(x, norm, 1e-5, cos, sin, plain)
    torch.testing.assert_close(ours, plain, **CLOSE[dtype])


@both
@shapes
def test_look(pointwise: ModuleType, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    batch, length, heads, key_heads, dim = shape
    query = torch.randn(batch, 2, heads, dim, dtype=dtype, device=DEVICE)
    for key in (torch.randn(batch, length, key_heads, dim), torch.randn(batch, key_heads, length, dim).transpose(1, 2)):
        ours, plain = (
            look(query, key.to(DEVICE, dtype), 0.3) for look in (pointwise.last_query_logits, EAGER.last_query_logits)
        )
        torch.testing.assert_close(ours, plain, **CLOSE[dtype])


@pytest.fixture(scope="module")
def decoding(pointwise: ModuleType) -> ModuleType:
    from homer.backends.kernels import decoding

    return decoding


@both
@shapes
@pytest.mark.parametrize("rows", [1, 3])
def test_attention_of_one_token_a_row(
    decoding: ModuleType, dtype: torch.dtype, shape: tuple[int, ...], rows: int
) -> None:
    _, _, heads, key_heads, dim = shape
    query = torch.randn(rows, 1, heads, dim, dtype=dtype, device=DEVICE)
    keys, values = torch.randn(2, rows, 192, key_heads, dim, dtype=dtype, device=DEVICE)
    last = torch.tensor([100, 0, 191], device=DEVICE)[:rows]
    ours, plain = (k.decode_attention(query, keys, values, last, 0.3) for k in (decoding, EAGER))
    torch.testing.assert_close(ours, plain, **CLOSE[dtype])


@both
@shapes
@pytest.mark.parametrize("normed", [False, True])
def test_keys_and_values_to_their_places(
    decoding: ModuleType, dtype: torch.dtype, shape: tuple[int, ...], normed: bool
) -> None:
    *_, key_heads, dim = shape
    key, value = torch.randn(2, 3, 1, key_heads, dim, dtype=dtype, device=DEVICE)
    cos, sin = torch.randn(2, 3, 1, dim, dtype=dtype, device=DEVICE)
    norm = torch.randn(dim, dtype=dtype, device=DEVICE) if normed else None
    sides = [torch.zeros(2, 3, 64, key_heads, dim, dtype=dtype, device=DEVICE) for _ in range(2)]
    for kernels, (keys, values) in zip((decoding, EAGER), sides, strict=True):
        kernels.write_rows(keys, values, torch.tensor([5, 0, 63], device=DEVICE), key, value, norm, 1e-5, cos, sin)
    torch.testing.assert_close(*sides, **CLOSE[dtype])


@both
@pytest.mark.parametrize("kept", [1, 5])
def test_rows_of_a_stack_that_is_a_part_of_another(pointwise: ModuleType, dtype: torch.dtype, kept: int) -> None:
    whole = torch.randn(4, 3, 11, 2, 12, dtype=dtype, device=DEVICE)  # layers, batch, rows, heads, head dim
    left, right = whole[:, 0, :9].flatten(2), whole[:, 2, :7].flatten(2)
    from_left, from_right = (torch.randint(0, side.shape[1], (kept,), device=DEVICE) for side in (left, right))
    weights = torch.rand(2, kept, device=DEVICE)
    out, plain = torch.zeros(2, 4, kept, 24, dtype=dtype, device=DEVICE)
    pointwise.gather_rows(out, left, from_left)
    EAGER.gather_rows(plain, left, from_left)
    assert torch.equal(out, plain)
    pointwise.blend_rows(out, left, right, from_left, from_right, *weights)
    EAGER.blend_rows(plain, left, right, from_left, from_right, *weights)
    torch.testing.assert_close(out, plain, **CLOSE[dtype])


def test_rows_that_do_not_stand_side_by_side_are_refused(pointwise: ModuleType) -> None:
    apart = torch.randn(4, 9, 2, 24, device=DEVICE)[:, :, 0]
    with pytest.raises(AssertionError):
        pointwise.gather_rows(torch.zeros(4, 1, 24, device=DEVICE), apart, torch.zeros(1, device=DEVICE).long())
