"""Entries: the keys and values of tokens, layer by layer, and the two things that happen to them: some are taken, and
two chunks' are joined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from homer.backends.kernels.plain import best

Affix = tuple[int, int]  # tokens of prefix and of suffix
Length = Tensor | int


@dataclasses.dataclass(frozen=True)
class Entries:
    """Keys and values of some layers. Immutable, but for `Decoder.replace_last`.

    Attributes:
        keys, values: one (batch, key heads, length, head dim) tensor a layer, on that layer's device.
        stack: the same in turn, in one tensor (2 x layers, batch, length, key heads, head dim), where the fused backend
            made them: then keys and values are views of it, and what is done to one is done to all layers at once.
    """

    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    stack: Tensor | None = None

    @classmethod
    def stacked(cls, stack: Tensor) -> Entries:
        """Those that lie in one tensor."""
        sides = stack.transpose(2, 3)
        return cls(tuple(sides[::2]), tuple(sides[1::2]), stack)

    @classmethod
    def of_cache(cls, cache: DynamicCache) -> Entries:
        """Those of a transformers cache; layers that did not run have none."""
        layers: list[Any] = cache.layers
        return cls(tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers))

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of every layer."""
        return zip(self.keys, self.values, strict=True)

    @property
    def length(self) -> int:
        """How many tokens there are."""
        return int(self.keys[0].shape[2])

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def each(self, change: Callable[[Tensor], Tensor]) -> Entries:
        """What a function makes of every layer's keys and values."""
        return Entries(tuple(map(change, self.keys)), tuple(map(change, self.values)))

    def to(self, device: torch.device) -> Entries:
        """Those on one device, in one copy where they lie in a stack."""
        return self.each(lambda t: t.to(device)) if self.stack is None else Entries.stacked(self.stack.to(device))

    def layers(self, first: int, end: int) -> Entries:
        """Those of layers first..end-1, as each was given."""
        return Entries(self.keys[first:end], self.values[first:end])

    def above(self, lower: Entries) -> Entries:
        """These layers on top of lower ones, of the same tokens."""
        if not lower or not self:
            return self or lower
        stacks = [entries.stack for entries in (lower, self) if entries.stack is not None]
        if len(stacks) == 2:
            return Entries.stacked(torch.cat(stacks))
        return Entries(lower.keys + self.keys, lower.values + self.values)

    def row(self, row: int) -> Entries:
        """Those of one row of a batch."""
        rows = slice(row, row + 1)
        return self.each(lambda t: t[rows]) if self.stack is None else Entries.stacked(self.stack[:, rows])

    def own_row(self, row: int, end: int) -> Entries:
        """Those of the first tokens of one row, copied, so that they hold no memory of the others."""
        if self.stack is None:
            return self.row(row).each(lambda t: t[:, :, :end].clone(memory_format=torch.contiguous_format))
        return Entries.stacked(self.stack[:, row : row + 1, :end].clone(memory_format=torch.contiguous_format))

    def part(self, first: int | None, end: int | None) -> Entries:
        """Those of the tokens first..end-1, as in a slice; not copied."""
        return self.each(lambda t: t[:, :, first:end])

    def take(self, indices: Tensor) -> Entries:
        """Those of the tokens at `indices` (kept,), of a batch of one."""
        if self.stack is None:
            return self.each(lambda t: take(t, indices, 2))
        out = self.stack.new_empty(len(self.stack), 1, len(indices), *self.stack.shape[3:])
        best(out.device).gather_rows(_rows(out), _rows(self.stack), indices)
        return Entries.stacked(out)

    def join(
        self, right: Entries, affix: Affix, above: Entries | None = None, indices: Tensor | None = None
    ) -> Entries:
        """Two chunks' entries as one, as `join` does it, and those `above` that both got as one.

        Where all lie in stacks, joined keys and values of tokens that are dropped are never made.

        Args:
            indices: (kept,), the tokens that stay; None: all.
        """
        above = above or Entries()
        stacks = [entries.stack for entries in (self, right, above) if entries and entries.stack is not None]
        if len(stacks) < sum(map(bool, (self, right, above))):
            joined = above.above(self.combine(right, lambda a, b: join(a, b, 2, affix)))
            return joined if indices is None else joined.take(indices)
        if not self:  # leaves whose keys and values lie elsewhere
            return above if indices is None or not above else above.take(indices)
        left, other = stacks[:2]
        lower, length = len(left), left.shape[2] + other.shape[2] - sum(affix)
        indices = torch.arange(length, device=left.device) if indices is None else indices
        out = left.new_empty(lower + 2 * len(above), 1, len(indices), *left.shape[3:])
        kernels = best(out.device)
        if above.stack is not None:
            kernels.gather_rows(_rows(out[lower:]), _rows(above.stack), indices)
        contexts = left.shape[2] - sum(affix), other.shape[2] - sum(affix)
        kernels.blend_rows(_rows(out[:lower]), _rows(left), _rows(other), *sources(indices, affix, contexts))
        return Entries.stacked(out)

    def to_cache(self) -> DynamicCache:
        """A new transformers cache of them, which holds the tensors themselves until it grows."""
        cache = DynamicCache()
        for layer, (key, value) in enumerate(self):
            cache.update(key, value, layer)
        return cache

    def combine(self, other: Entries, change: Callable[[Tensor, Tensor], Tensor]) -> Entries:
        """What a function makes of every layer's keys, and values, of both."""
        return Entries(tuple(map(change, self.keys, other.keys)), tuple(map(change, self.values, other.values)))


def together(parts: Iterable[Entries]) -> Entries:
    """Rows of the same length as one batch."""
    keys, values = (zip(*side, strict=True) for side in zip(*((e.keys, e.values) for e in parts), strict=True))
    return Entries(tuple(map(torch.cat, keys)), tuple(map(torch.cat, values)))


def take(x: Tensor, indices: Tensor, dim: int) -> Tensor:
    """What stands at indices (kept,) along a dimension, wherever they lie."""
    return x.index_select(dim, indices.to(x.device))


def join(a: Tensor, b: Tensor, dim: int, affix: Affix) -> Tensor:
    """Two chunks' rows along `dim` as one: the affix of both averaged, the contexts side by side.

    What is no floating-point number, such as positions, is the same in both affixes, and is the left one's.
    """
    prefix_a, context_a, suffix_a = _parts(a, dim, affix)
    prefix_b, context_b, suffix_b = _parts(b, dim, affix)
    return torch.cat([_mean(prefix_a, prefix_b), context_a, context_b, _mean(suffix_a, suffix_b)], dim)


def sources(
    indices: Tensor, affix: tuple[Length, Length], contexts: tuple[Length, Length]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where the tokens at `indices` of two joined chunks come from: rows of the left, of the right, and their weights.

    The same as `join`, said of every token by itself: so what survives is fetched from both chunks in one pass.

    Args:
        indices: whole numbers of any shape; those behind the last token are given what would stand there.
        affix, contexts: tokens of prefix and suffix, and of both contexts; numbers, or tensors that broadcast.
    """
    middle, end = affix[0] + contexts[0], affix[0] + contexts[0] + contexts[1]
    in_left, in_suffix = indices < middle, indices >= end
    shared = (indices < affix[0]) | in_suffix
    half = torch.full((), 0.5, device=indices.device)
    from_left = torch.where(in_left, indices, torch.where(in_suffix, indices - contexts[1], 0))
    from_right = torch.where(in_left, torch.where(shared, indices, 0), indices - contexts[0])
    weight = torch.where(shared, half, in_left.to(half.dtype))
    return from_left, from_right, weight, 1 - weight


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return (a + b) / 2 if a.is_floating_point() else a


def _parts(x: Tensor, dim: int, affix: Affix) -> tuple[Tensor, ...]:
    return torch.split(x, [affix[0], x.shape[dim] - sum(affix), affix[1]], dim)


def _rows(stack: Tensor) -> Tensor:
    """A stack of one row as (2 x layers, length, features)."""
    return stack[:, 0].flatten(2)
