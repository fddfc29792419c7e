"""One token a row: its attention to many columns, and where its key and value go.

Attention is two small GPU kernels: each block of columns for itself, then together.

Computes what `last_query_logits`, `probabilities` and `mix` of `plain` do one after the other.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor

_BLOCK = 64  # columns a program
_TILE = 16  # the least side of a matrix product
_TOGETHER = 64  # blocks that are put together at a time


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _attend_block(
    query: tl.tensor, key: tl.tensor, value: tl.tensor, last: tl.tensor, sums: tl.tensor, tops: tl.tensor,
    weights: tl.tensor, scaling: tl.tensor, capacity: tl.tensor, key_heads: tl.constexpr, group: tl.constexpr,
    most: tl.constexpr, dim: tl.constexpr, wide: tl.constexpr, size: tl.constexpr, narrow: tl.constexpr,
) -> None:  # fmt: skip
    head, block, line = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns, members, dims = block * size + tl.arange(0, size), tl.arange(0, most), tl.arange(0, wide)
    known, there, real = columns <= tl.load(last + line), members < group, dims < dim
    where = ((line * capacity + columns[:, None]) * key_heads + head) * dim + dims[None, :]
    mask = known[:, None] & real[None, :]
    keys = tl.load(key + where, mask=mask, other=0.0)
    values = tl.load(value + where, mask=mask, other=0.0)
    # all query heads of a key head at once, as a matrix product: one by one they take longer than reading the keys
    numbers = (line * key_heads + head) * group + members
    queries = tl.load(query + numbers[:, None] * dim + dims[None, :], mask=there[:, None] & real[None, :], other=0.0)
    logits = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scaling
    logits = tl.where(known[None, :], logits, -1e30)
    top = tl.max(logits, 1)
    shares = tl.where(known[None, :], tl.exp(logits - top[:, None]), 0.0)
    high = shares.to(values.dtype)
    total = tl.dot(high, values, input_precision="ieee")
    if narrow:  # what 16 bits lose of the shares, in 16 more
        total += tl.dot((shares - high.to(tl.float32)).to(values.dtype), values)
    rows = numbers * tl.num_programs(1) + block
    tl.store(sums + rows[:, None] * dim + dims[None, :], total, mask=there[:, None] & real[None, :])
    tl.store(tops + rows, top, mask=there)
    tl.store(weights + rows, tl.sum(shares, 1), mask=there)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _join_blocks(
    sums: tl.tensor, tops: tl.tensor, weights: tl.tensor, out: tl.tensor, blocks: tl.tensor,
    dim: tl.constexpr, wide: tl.constexpr, many: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(0)
    dims = tl.arange(0, wide)
    real = dims < dim
    top, weight, total = tl.full([], -1e30, tl.float32), tl.full([], 0.0, tl.float32), tl.zeros([wide], tl.float32)
    for start in range(0, blocks, many):
        numbers = start + tl.arange(0, many)
        there = numbers < blocks
        rows = head * blocks + numbers
        own = tl.load(tops + rows, mask=there, other=-1e30)
        higher = tl.maximum(top, tl.max(own, 0))
        factors, before = tl.where(there, tl.exp(own - higher), 0.0), tl.exp(top - higher)
        parts = tl.load(sums + rows[:, None] * dim + dims[None, :], mask=there[:, None] & real[None, :], other=0.0)
        total = total * before + tl.sum(parts * factors[:, None], 0)
        weight = weight * before + tl.sum(tl.load(weights + rows, mask=there, other=0.0) * factors, 0)
        top = higher
    tl.store(out + head * dim + dims, (total / weight).to(out.dtype.element_ty), mask=real)


def decode_attention(query: Tensor, keys: Tensor, values: Tensor, last: Tensor, scaling: float) -> Tensor:
    """Attention of one token a row: (rows, 1, heads x head dim).

    Args:
        query: (rows, 1, heads, head dim), rotated and contiguous.
        keys, values: (rows, columns, key heads, head dim), contiguous.
        last: (rows,), the last column that counts.
    """
    rows, columns, key_heads, dim = keys.shape
    heads = query.shape[2]
    blocks, wide = triton.cdiv(columns, _BLOCK), max(_TILE, triton.next_power_of_2(dim))
    group, narrow = heads // key_heads, query.dtype != torch.float32
    sums = torch.empty(rows * heads, blocks, dim, device=query.device, dtype=torch.float32)
    tops, weights = torch.empty(2, rows * heads, blocks, device=query.device, dtype=torch.float32)
    out = torch.empty_like(query)
    _attend_block[key_heads, blocks, rows](
        query, keys, values, last, sums, tops, weights, scaling, columns, key_heads, group,
        max(_TILE, triton.next_power_of_2(group)), dim, wide, _BLOCK, narrow,
    )  # fmt: skip
    _join_blocks[rows * heads,](sums, tops, weights, out, blocks, dim, wide, _TOGETHER)
    return out.flatten(2)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _write(
    key: tl.tensor, value: tl.tensor, norm: tl.tensor, cos: tl.tensor, sin: tl.tensor, keys: tl.tensor,
    values: tl.tensor, columns: tl.tensor, eps: tl.tensor, capacity: tl.tensor,
    heads: tl.constexpr, half: tl.constexpr, wide: tl.constexpr, norms: tl.constexpr,
) -> None:  # fmt: skip
    line, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dims = tl.arange(0, wide)
    real = dims < half
    source = (line * heads + head) * (2 * half) + dims
    target = ((line * capacity + tl.load(columns + line)) * heads + head) * (2 * half) + dims
    low = tl.load(key + source, mask=real, other=0.0).to(tl.float32)
    high = tl.load(key + source + half, mask=real, other=0.0).to(tl.float32)
    if norms:
        factor = tl.rsqrt((tl.sum(low * low, 0) + tl.sum(high * high, 0)) / (2 * half) + eps)
        low = (low * factor).to(keys.dtype.element_ty).to(tl.float32)
        high = (high * factor).to(keys.dtype.element_ty).to(tl.float32)
        low *= tl.load(norm + dims, mask=real, other=0.0).to(tl.float32)
        high *= tl.load(norm + half + dims, mask=real, other=0.0).to(tl.float32)
    angle = line * (2 * half) + dims
    low_cos = tl.load(cos + angle, mask=real, other=0.0).to(tl.float32)
    low_sin = tl.load(sin + angle, mask=real, other=0.0).to(tl.float32)
    high_cos = tl.load(cos + angle + half, mask=real, other=0.0).to(tl.float32)
    high_sin = tl.load(sin + angle + half, mask=real, other=0.0).to(tl.float32)
    tl.store(keys + target, (low * low_cos - high * low_sin).to(keys.dtype.element_ty), mask=real)
    tl.store(keys + target + half, (high * high_cos + low * high_sin).to(keys.dtype.element_ty), mask=real)
    tl.store(values + target, tl.load(value + source, mask=real), mask=real)
    tl.store(values + target + half, tl.load(value + source + half, mask=real), mask=real)


def write_rows(
    keys: Tensor, values: Tensor, columns: Tensor, key: Tensor, value: Tensor,
    norm: Tensor | None, eps: float, cos: Tensor, sin: Tensor,
) -> None:  # fmt: skip
    """As in `plain`; keys and values (rows, capacity, key heads, head dim) must be contiguous."""
    rows, capacity, heads, dim = keys.shape
    assert keys.is_contiguous()
    assert values.is_contiguous()
    key, value, cos, sin = (t.contiguous() for t in (key, value, cos, sin))
    wide = triton.next_power_of_2(dim // 2)
    _write[rows, heads](
        key, value, key if norm is None else norm, cos, sin, keys, values, columns, eps, capacity, heads, dim // 2,
        wide, norm is not None,
    )  # fmt: skip
