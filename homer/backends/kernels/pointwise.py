"""What lies between matrix products, as GPU kernels by hand, whose launch costs less than a compiled function's.

Each computes what the function of the same name in `plain` does, in float32 inside.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor

_BLOCK = 2048  # numbers a program
_HEADS = 2048  # numbers of a token's heads a program
_COLUMNS = 64  # columns a program
_LARGEST, _FAINTEST = 448.0, 1e-12  # as in `plain`


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _norm(
    x: tl.tensor, delta: tl.tensor, weight: tl.tensor, total: tl.tensor, out: tl.tensor, eps: tl.tensor,
    size: tl.constexpr, wide: tl.constexpr, adds: tl.constexpr,
) -> None:  # fmt: skip
    columns = tl.arange(0, wide)
    real = columns < size
    row = tl.program_id(0).to(tl.int64) * size + columns
    value = tl.load(x + row, mask=real, other=0.0).to(tl.float32)
    if adds:
        value += tl.load(delta + row, mask=real, other=0.0).to(tl.float32)
        narrow = value.to(total.dtype.element_ty)
        tl.store(total + row, narrow, mask=real)
        value = narrow.to(tl.float32)
    normed = value * tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    normed = normed.to(out.dtype.element_ty).to(tl.float32)
    scale = tl.load(weight + columns, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row, (normed * scale).to(out.dtype.element_ty), mask=real)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _rotate(
    x: tl.tensor, norm: tl.tensor, cos: tl.tensor, sin: tl.tensor, out: tl.tensor, eps: tl.tensor,
    heads: tl.constexpr, half: tl.constexpr, wide: tl.constexpr, block: tl.constexpr, norms: tl.constexpr,
) -> None:  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    numbers, columns = tl.program_id(1) * block + tl.arange(0, block), tl.arange(0, wide)
    real = columns < half
    mask = (numbers < heads)[:, None] & real[None, :]
    low_at = (token * heads + numbers[:, None]) * (2 * half) + columns[None, :]
    low = tl.load(x + low_at, mask=mask, other=0.0).to(tl.float32)
    high = tl.load(x + low_at + half, mask=mask, other=0.0).to(tl.float32)
    if norms:
        factor = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * half) + eps)[:, None]
        low = (low * factor).to(out.dtype.element_ty).to(tl.float32)
        high = (high * factor).to(out.dtype.element_ty).to(tl.float32)
        low *= tl.load(norm + columns, mask=real, other=0.0).to(tl.float32)[None, :]
        high *= tl.load(norm + half + columns, mask=real, other=0.0).to(tl.float32)[None, :]
    angle = token * (2 * half) + columns
    low_cos = tl.load(cos + angle, mask=real, other=0.0).to(tl.float32)[None, :]
    low_sin = tl.load(sin + angle, mask=real, other=0.0).to(tl.float32)[None, :]
    high_cos = tl.load(cos + angle + half, mask=real, other=0.0).to(tl.float32)[None, :]
    high_sin = tl.load(sin + angle + half, mask=real, other=0.0).to(tl.float32)[None, :]
    tl.store(out + low_at, (low * low_cos - high * low_sin).to(out.dtype.element_ty), mask=mask)
    tl.store(out + low_at + half, (high * high_cos + low * high_sin).to(out.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _silu_times(gate: tl.tensor, up: tl.tensor, out: tl.tensor, count: tl.tensor, block: tl.constexpr) -> None:
    columns = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    real = columns < count
    value = tl.load(gate + columns, mask=real, other=0.0).to(tl.float32)
    other = tl.load(up + columns, mask=real, other=0.0).to(tl.float32)
    tl.store(out + columns, (value / (1.0 + tl.exp(-value)) * other).to(out.dtype.element_ty), mask=real)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _logits_of_last(
    query: tl.tensor, key: tl.tensor, out: tl.tensor, scaling: tl.tensor, queries: tl.tensor, length: tl.tensor,
    row_stride: tl.tensor, column_stride: tl.tensor, head_stride: tl.tensor,
    heads: tl.constexpr, group: tl.constexpr, dim: tl.constexpr, wide: tl.constexpr, size: tl.constexpr,
) -> None:  # fmt: skip
    head, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns, dims = tl.program_id(0) * size + tl.arange(0, size), tl.arange(0, wide)
    known, real = columns < length, dims < dim
    where = row * row_stride + columns[:, None].to(tl.int64) * column_stride + head * head_stride + dims[None, :]
    keys = tl.load(key + where, mask=known[:, None] & real[None, :], other=0.0).to(tl.float32)
    for member in tl.static_range(group):
        number = head * group + member
        one = tl.load(query + ((row + 1) * queries - 1) * heads * dim + number * dim + dims, mask=real, other=0.0)
        logits = tl.sum(keys * one.to(tl.float32)[None, :], 1) * scaling
        tl.store(out + (row * heads + number) * length + columns, logits, mask=known)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _narrow(
    x: tl.tensor, out: tl.tensor, scales: tl.tensor, largest: tl.constexpr, faintest: tl.constexpr,
    size: tl.constexpr, wide: tl.constexpr,
) -> None:  # fmt: skip
    columns, row = tl.arange(0, wide), tl.program_id(0).to(tl.int64)
    real = columns < size
    value = tl.load(x + row * size + columns, mask=real, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(value), 0), faintest) / largest
    value = tl.minimum(tl.maximum(value / scale, -largest), largest)
    tl.store(out + row * size + columns, value.to(out.dtype.element_ty), mask=real)
    tl.store(scales + row, scale)


# Numbers that are never the same twice are not specialized by, which would compile anew for those that 16 divides.
@triton.jit(do_not_specialize=["out_rows", "rows"])  # type: ignore[untyped-decorator, unused-ignore]
def _gather(
    out: tl.tensor, entries: tl.tensor, indices: tl.tensor, out_rows: tl.tensor, rows: tl.tensor,
    size: tl.constexpr, wide: tl.constexpr,
) -> None:  # fmt: skip
    token, layer, columns = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, wide)
    real = columns < size
    value = tl.load(entries + (layer * rows + tl.load(indices + token)) * size + columns, mask=real)
    tl.store(out + (layer * out_rows + token) * size + columns, value, mask=real)


@triton.jit(do_not_specialize=["out_rows", "left_rows", "right_rows"])  # type: ignore[untyped-decorator, unused-ignore]
def _blend(
    out: tl.tensor, left: tl.tensor, right: tl.tensor, from_left: tl.tensor, from_right: tl.tensor,
    weight: tl.tensor, other: tl.tensor, out_rows: tl.tensor, left_rows: tl.tensor, right_rows: tl.tensor,
    size: tl.constexpr, wide: tl.constexpr,
) -> None:  # fmt: skip
    token, layer, columns = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, wide)
    real = columns < size
    lefts = tl.load(left + (layer * left_rows + tl.load(from_left + token)) * size + columns, mask=real)
    rights = tl.load(right + (layer * right_rows + tl.load(from_right + token)) * size + columns, mask=real)
    value = lefts.to(tl.float32) * tl.load(weight + token) + rights.to(tl.float32) * tl.load(other + token)
    tl.store(out + (layer * out_rows + token) * size + columns, value.to(out.dtype.element_ty), mask=real)


def gather_rows(out: Tensor, entries: Tensor, indices: Tensor) -> None:
    """As in `plain`."""
    layers, kept, size = out.shape
    wide, sides = triton.next_power_of_2(size), (out, entries)
    _gather[kept, layers](*sides, indices.contiguous(), *map(_rows_between, sides), size, wide, num_warps=8)


def blend_rows(
    out: Tensor, left: Tensor, right: Tensor, from_left: Tensor, from_right: Tensor, weight: Tensor, other: Tensor
) -> None:
    """As in `plain`."""
    layers, kept, size = out.shape
    wide, sides = triton.next_power_of_2(size), (out, left, right)
    each = (x.contiguous() for x in (from_left, from_right, weight, other))
    _blend[kept, layers](*sides, *each, *map(_rows_between, sides), size, wide, num_warps=8)


def _rows_between(x: Tensor) -> int:
    """From a layer to the next in (layers, length, features), whose rows stand side by side."""
    layer, row, one = x.stride()
    assert (one, layer % x.shape[2]) == (1, 0)
    assert x.shape[1] == 1 or row == x.shape[2]
    return layer // x.shape[2]


def narrow_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """As in `plain`."""
    x = x.contiguous()
    rows, size = x.shape
    out = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scales = torch.empty(rows, 1, device=x.device, dtype=torch.float32)
    _narrow[rows,](x, out, scales, _LARGEST, _FAINTEST, size, triton.next_power_of_2(size), num_warps=8)
    return out, scales


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As in `plain`."""
    x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    size = x.shape[-1]
    _norm[x.numel() // size,](x, x, weight, out, out, eps, size, triton.next_power_of_2(size), False, num_warps=8)
    return out


def add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As in `plain`."""
    x, delta = x.contiguous(), delta.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x)
    size = x.shape[-1]
    wide = triton.next_power_of_2(size)
    _norm[x.numel() // size,](x, delta, weight, total, out, eps, size, wide, True, num_warps=8)
    return total, out


def apply_rotary(x: Tensor, norm: Tensor | None, eps: float, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """As in `plain`; `out` must be contiguous."""
    heads, dim = x.shape[2:]
    assert out.is_contiguous()
    x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
    wide = triton.next_power_of_2(dim // 2)
    block = min(triton.next_power_of_2(heads), max(1, _HEADS // (2 * wide)))
    grid = (x.shape[0] * x.shape[1], triton.cdiv(heads, block))
    _rotate[grid](x, x if norm is None else norm, cos, sin, out, eps, heads, dim // 2, wide, block, norm is not None)


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """As in `plain`."""
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    _silu_times[triton.cdiv(out.numel(), _BLOCK),](gate, up, out, out.numel(), _BLOCK, num_warps=8)
    return out


def last_query_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """As in `plain`."""
    batch, length, key_heads, dim = key.shape
    heads = query.shape[2]
    query = query.contiguous()
    key = key if key.stride(3) == 1 else key.contiguous()
    out = torch.empty(batch, heads, length, device=key.device, dtype=torch.float32)
    _logits_of_last[triton.cdiv(length, _COLUMNS), key_heads, batch](
        query, key, out, scaling, query.shape[1], length, key.stride(0), key.stride(1), key.stride(2),
        heads, heads // key_heads, dim, triton.next_power_of_2(dim), _COLUMNS,
    )  # fmt: skip
    return out
