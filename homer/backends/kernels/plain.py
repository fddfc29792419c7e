"""What the fast path does between and instead of matrix products, as plain functions that a compiler can fuse.

`EAGER` runs them as they stand; `compiled()` fuses each into one or a few GPU kernels, and takes from
`pointwise` and `decoding` those that are written by hand. All compute the same.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Matrix = tuple[Tensor, Tensor | None]  # weight and bias

LARGEST, FAINTEST = 448.0, 1e-12  # in FP8 with four bits of exponent; what scales are made of at least
ROUND = 64  # columns for new tokens come in groups of so many


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension, in float32 inside."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual stream after an addition, and its norm."""
    x = x + delta
    return x, rms_norm(x, weight, eps)


def apply_rotary(x: Tensor, norm: Tensor | None, eps: float, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotary positions, after a norm of every head where there is one, as in Qwen3; written to `out`.

    Args:
        x, out: (batch, length, heads, head dim).
        cos, sin: (batch, length, head dim).
    """
    if norm is not None:
        x = rms_norm(x, norm, eps)
    low, high = x.chunk(2, -1)
    out.copy_(x * cos[:, :, None] + torch.cat((-high, low), -1) * sin[:, :, None])


def _rotated(x: Tensor, norm: Tensor | None, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.empty_like(x)
    apply_rotary(x, norm, eps, cos, sin, out)
    return out


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """The SwiGLU product."""
    return F.silu(gate) * up


def narrow_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of (rows, features) in FP8, and the scales (rows, 1), float32, by which they are to be multiplied."""
    wide = x.float()
    scales = wide.abs().amax(-1, keepdim=True).clamp(min=FAINTEST) / LARGEST
    return (wide / scales).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scales


def last_query_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Logits of the last query against every key, in float32.

    Args:
        query: (batch, queries, heads, head dim); query heads share key heads in groups.
        key: (batch, length, key heads, head dim).

    Returns:
        (batch, heads, length)
    """
    batch, length, heads, dim = key.shape
    last = query[:, -1].reshape(batch, heads, -1, 1, dim)
    products = last.float() * key.transpose(1, 2).float()[:, :, None]
    return (products.sum(-1) * scaling).reshape(batch, -1, length)


def gather_rows(out: Tensor, entries: Tensor, indices: Tensor) -> None:
    """Rows of entries (layers, length, features) at `indices` (kept,), written to `out`."""
    out.copy_(entries[:, indices])


def blend_rows(
    out: Tensor, left: Tensor, right: Tensor, from_left: Tensor, from_right: Tensor, weight: Tensor, other: Tensor
) -> None:
    """Rows of two chunks' entries, each (layers, length, features), weighted and added; written to `out`.

    Args:
        from_left, from_right: (kept,), which row of each.
        weight, other: (kept,), the weight of the left and of the right row.
    """
    out.copy_(left[:, from_left] * weight[:, None] + right[:, from_right] * other[:, None])


def matvec(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A matrix and one vector: x (1, 1, features in) to (1, 1, features out). Bound by reading the matrix."""
    result = (weight.float() * x.float()[0]).sum(-1).to(x.dtype)[None, None]
    return result if bias is None else result + bias


def qkv_proj(x: Tensor, query: Matrix, key: Matrix, value: Matrix) -> tuple[Tensor, Tensor, Tensor]:
    """One token's query, key and value."""
    return matvec(x, *query), matvec(x, *key), matvec(x, *value)


def gate_up_proj(x: Tensor, gate: Matrix, up: Matrix) -> Tensor:
    """One token's way through the wide part of the feed-forward layer."""
    return F.silu(matvec(x, *gate)) * matvec(x, *up)


def write_kv(
    keys: Tensor, values: Tensor, column: Tensor, key: Tensor, value: Tensor,
    norm: Tensor | None, eps: float, cos: Tensor, sin: Tensor,
) -> None:  # fmt: skip
    """One token's rotated key and its value (1, 1, key heads, head dim), written to `column` among the others."""
    keys.index_copy_(1, column, _rotated(key, norm, eps, cos, sin))
    values.index_copy_(1, column, value)


def write_rows(
    keys: Tensor, values: Tensor, columns: Tensor, key: Tensor, value: Tensor,
    norm: Tensor | None, eps: float, cos: Tensor, sin: Tensor,
) -> None:  # fmt: skip
    """The same for several rows: each one's rotated key and value (rows, 1, key heads, head dim), to its own column."""
    rows = torch.arange(len(columns), device=columns.device)
    keys[rows, columns] = _rotated(key, norm, eps, cos, sin)[:, 0]
    values[rows, columns] = value[:, 0]


def probabilities(logits: Tensor, last: Tensor) -> Tensor:
    """Softmax of (rows, heads, columns) over the columns up to `last` (rows,), on the device."""
    columns = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill(columns > last[:, None, None], -torch.inf).softmax(-1)


def mix(weights: Tensor, value: Tensor) -> Tensor:
    """Values by their weights: one token's attention a row, (rows, 1, heads x head dim), in the values' dtype.

    Args:
        weights: (rows, heads, columns), from `probabilities`.
        value: (rows, columns, key heads, head dim); columns in whole groups of `ROUND`, over which sums are split.
    """
    rows, _, heads, dim = value.shape
    grouped = weights.reshape(rows, heads, -1, value.shape[1] // ROUND, ROUND).permute(0, 3, 4, 1, 2)
    parts = grouped[..., None] * value.reshape(rows, -1, ROUND, heads, 1, dim).float()
    return parts.sum(2).sum(1).to(value.dtype).reshape(rows, 1, -1)


def decode_attention(query: Tensor, keys: Tensor, values: Tensor, last: Tensor, scaling: float) -> Tensor:
    """One token's attention a row, (rows, 1, heads x head dim), to the columns up to its `last`: the three in a row."""
    return mix(probabilities(last_query_logits(query, keys, scaling), last), values)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The functions above, as they are run."""

    rms_norm: Callable[..., Tensor] = rms_norm
    add_norm: Callable[..., tuple[Tensor, Tensor]] = add_norm
    apply_rotary: Callable[..., None] = apply_rotary
    silu_and_mul: Callable[..., Tensor] = silu_and_mul
    narrow_rows: Callable[..., tuple[Tensor, Tensor]] = narrow_rows
    last_query_logits: Callable[..., Tensor] = last_query_logits
    gather_rows: Callable[..., None] = gather_rows
    blend_rows: Callable[..., None] = blend_rows
    matvec: Callable[..., Tensor] = matvec
    qkv_proj: Callable[..., tuple[Tensor, Tensor, Tensor]] = qkv_proj
    gate_up_proj: Callable[..., Tensor] = gate_up_proj
    write_kv: Callable[..., None] = write_kv
    write_rows: Callable[..., None] = write_rows
    decode_attention: Callable[..., Tensor] = decode_attention


EAGER = Kernels()

# which dimensions of which arguments of what is compiled change from call to call
_CHANGING: dict[str, dict[int, tuple[int, ...]]] = {
    "matvec": {},
    "qkv_proj": {},
    "gate_up_proj": {},
    "write_kv": {0: (1,), 1: (1,)},
}
_DECODING = ("decode_attention", "write_rows")
_BY_HAND = (
    *("rms_norm", "add_norm", "apply_rotary", "silu_and_mul", "narrow_rows", "last_query_logits"),
    *("gather_rows", "blend_rows"), *_DECODING,
)  # fmt: skip


def best(device: torch.device) -> Kernels:
    """Compiled on a GPU, where Triton is there to do it; the same for all that have no kernels of their own."""
    return _shared(device.index) if _compiles(device) else EAGER


def fresh(device: torch.device) -> Kernels:
    """As `best`, but compiled anew, since the number of shapes that one compilation serves is limited."""
    return compiled() if _compiles(device) else EAGER


def compiled() -> Kernels:
    """The functions compiled, each on its first call; on a GPU some are written by hand."""
    kernels = {name: _compile(getattr(EAGER, name), changing) for name, changing in _CHANGING.items()}
    return Kernels(**kernels, **(_by_hand() if torch.cuda.is_available() else {}))


@functools.cache
def _shared(index: int | None) -> Kernels:
    """Compiled once for each GPU, since the number of variants that one compilation serves is limited."""
    return compiled()


def _compiles(device: torch.device) -> bool:
    return device.type == "cuda" and find_spec("triton") is not None


def _by_hand() -> dict[str, Callable[..., Any]]:
    from homer.backends.kernels import decoding, pointwise  # need Triton

    return {name: getattr(decoding if name in _DECODING else pointwise, name) for name in _BY_HAND}


def _compile(function: Any, changing: dict[int, tuple[int, ...]]) -> Callable[..., Any]:
    copied = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    fused = torch.compile(copied)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        for index, dims in changing.items():
            for dim in dims:
                if args[index].shape[dim] > 1:
                    torch._dynamo.maybe_mark_dynamic(args[index], dim)
        return fused(*args)

    return call
