"""FP8: the matrix products of long chunks in 8-bit floats, for cards that have them; all else stays as it is.

A row of a chunk's states and a row of a weight each have a scale of their own, by which the largest number of the row
is the largest that 8 bits hold. Products of fewer rows, so all of decoding and the last reading of what survived, are
those of the model itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from homer.backends.blocks import Block, Projection
from homer.backends.kernels.plain import Kernels, narrow_rows
from homer.errors import ConfigError, UnsupportedModelError

LEAST_ROWS = 1024  # of a chunk: below, quantizing takes much of what is gained
_PRODUCTS = ("query", "key", "value", "output", "gate", "up", "down")
_LEAST_CARD = (8, 9)  # compute capability, Ada and Hopper


class Narrow(NamedTuple):
    """States in FP8: values (rows, features), scales (rows, 1) in float32, and the shape of what they were made of."""

    values: Tensor
    scales: Tensor
    shape: torch.Size


class Fp8Projection(Projection):
    """A projection with a second weight in FP8, (features out, features in), and its scales, (1, features out)."""

    narrow: Tensor
    scales: Tensor
    kernels: Kernels

    @classmethod
    def of(cls, projection: Projection, kernels: Kernels) -> Fp8Projection:
        """The same product, in FP8 where rows are many."""
        new = cls(*projection)
        new.narrow, scales = narrow_rows(projection.weight.detach())
        new.scales, new.kernels = scales.t().contiguous(), kernels
        return new

    def prepared(self, x: Tensor) -> Tensor | Narrow:
        """As `Projection.prepared`."""
        if x.numel() < LEAST_ROWS * x.shape[-1]:
            return x
        return Narrow(*self.kernels.narrow_rows(x.flatten(0, -2)), x.shape)

    def __call__(self, x: Tensor | Narrow) -> Tensor:
        """As `Projection.__call__`."""
        if isinstance(x, Tensor):
            return super().__call__(x)
        product = multiply(x, self.narrow, self.scales, self.weight.dtype)
        product = product if self.bias is None else product + self.bias
        return product.view(*x.shape[:-1], -1)

    def into(self, x: Tensor | Narrow, out: Tensor) -> None:
        """As `Projection.into`."""
        if isinstance(x, Tensor):
            super().into(x, out)
        else:
            out.copy_(self(x).view_as(out))


def multiply(x: Narrow, narrow: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of states and a weight in FP8: (rows, features out) in `dtype`. Off the GPU by wider numbers."""
    if narrow.device.type != "cuda":
        return ((x.values.float() * x.scales) @ (narrow.float().t() * scales)).to(dtype)
    product: Tensor = torch._scaled_mm(
        x.values, narrow.t(), scale_a=x.scales, scale_b=scales, out_dtype=dtype, use_fast_accum=True
    )
    return product


def in_fp8(blocks: tuple[Block, ...], kernels: Kernels) -> tuple[Block, ...]:
    """Layers whose products are in FP8 where rows are many; their own weights are shared."""

    def narrowed(block: Block) -> Block:
        products: dict[str, Any] = {name: Fp8Projection.of(getattr(block, name), kernels) for name in _PRODUCTS}
        return dataclasses.replace(block, **products)

    return tuple(map(narrowed, blocks))


def check_fast(fast: Any, model: Any) -> None:
    """Raise where `fast` is no such choice, or products in FP8 cannot be had.

    Raises:
        ConfigError: neither True, False, None nor "fp8".
        UnsupportedModelError: no card for it, or not a model in bfloat16.
    """
    if fast not in (None, True, False, "fp8"):
        raise ConfigError(f"fast={fast!r} is unknown: give True, False, None or 'fp8'")
    if fast != "fp8":
        return
    device = model.device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _LEAST_CARD:
        raise UnsupportedModelError(f"fast='fp8' takes a GPU of compute capability 8.9, {device} is none: leave it out")
    if model.dtype != torch.bfloat16:
        raise UnsupportedModelError(f"fast='fp8' takes a model in bfloat16, not {model.dtype}: give dtype='bfloat16'")
