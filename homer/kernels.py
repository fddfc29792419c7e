"""What a decoder layer does between its matrix products, as plain functions that a compiler can fuse.

`EAGER` runs them as they stand; `compiled()` fuses each into one or two GPU kernels. Both compute the same.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension, in float32 inside."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual stream after an addition, and its norm."""
    x = x + delta
    return x, rms_norm(x, weight, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions. x: (batch, length, heads, head dim); cos, sin: (batch, length, head dim)."""
    low, high = x.chunk(2, -1)
    return x * cos[:, :, None] + torch.cat((-high, low), -1) * sin[:, :, None]


def norm_rotate(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` after a norm of every head, as Qwen3 has it."""
    return rotate(rms_norm(x, weight, eps), cos, sin)


def gate(gate: Tensor, up: Tensor) -> Tensor:
    """The SwiGLU product."""
    return F.silu(gate) * up


def look(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Logits of one query against every key, in float32.

    Args:
        query: (batch, key heads, group, head dim).
        key: (batch, length, key heads, head dim).

    Returns:
        (batch, key heads, group, length)
    """
    products = query.float()[:, :, :, None] * key.transpose(1, 2).float()[:, :, None]
    return products.sum(-1) * scaling


def weigh(logits: Tensor, value: Tensor, last: Tensor) -> Tensor:
    """Softmax over the entries up to `last` (a place, on the device), and the values by these weights.

    Args:
        logits: (batch, key heads, group, length), from `look`.
        value: (batch, length, key heads, head dim).

    Returns:
        (batch, key heads, group, head dim), in the values' dtype.
    """
    places = torch.arange(value.shape[1], device=value.device)
    weights = logits.masked_fill(places > last, -torch.inf).softmax(-1)
    return (weights[..., None] * value.transpose(1, 2).float()[:, :, None]).sum(-2).to(value.dtype)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The functions above, as they are run."""

    rms_norm: Callable[..., Tensor] = rms_norm
    add_norm: Callable[..., tuple[Tensor, Tensor]] = add_norm
    rotate: Callable[..., Tensor] = rotate
    norm_rotate: Callable[..., Tensor] = norm_rotate
    gate: Callable[..., Tensor] = gate
    look: Callable[..., Tensor] = look
    weigh: Callable[..., Tensor] = weigh


EAGER = Kernels()


# which dimension of which argument is a length, and changes from call to call
_LENGTHS = {
    "rms_norm": {0: 1},
    "add_norm": {0: 1, 1: 1},
    "rotate": {0: 1, 1: 1, 2: 1},
    "norm_rotate": {0: 1, 3: 1, 4: 1},
    "gate": {0: 1, 1: 1},
    "look": {1: 1},
    "weigh": {0: 3, 1: 1},
}


@functools.cache
def compiled() -> Kernels:
    """The functions compiled, on their first call; once for all models of the process."""
    return Kernels(**{name: _compile(getattr(EAGER, name), lengths) for name, lengths in _LENGTHS.items()})


def _compile(function: Callable[..., Any], lengths: dict[int, int]) -> Callable[..., Any]:
    fused = torch.compile(function)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        for place, dim in lengths.items():
            if args[place].shape[dim] > 1:
                torch._dynamo.maybe_mark_dynamic(args[place], dim)
        return fused(*args)

    return call
