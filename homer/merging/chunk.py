"""Chunk: affix + part of the context on its way up the tree, and the two things that happen to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from homer.backends.kernels.plain import best


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Tokens in order: prefix, context, suffix. Immutable: `merge` and `keep` give new chunks.

    Attributes:
        hidden_states: (1, length, hidden size), after the layers run so far.
        position_ids: (1, length); after a merge, left and right context share one range.
        tokens: (length,), where each token stands in prefix + context + suffix.
        keys, values: one (1, key heads, length, head dim) tensor for each layer run so far, or since `below`.
        prefix_len, suffix_len: affix tokens at both ends.
        below: the two chunks merged into this one, whose keys and values are put together when it is known
            which of them stay.
        stack: the same keys and values in turn, (2 x layers, length, key heads x head dim), from the fast path.
        scores: (rows, length), the significance of each token so far; None before the first was measured.
    """

    hidden_states: Tensor
    position_ids: Tensor
    tokens: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    prefix_len: int
    suffix_len: int
    below: tuple[Chunk, Chunk] | None = None
    stack: Tensor | None = None
    scores: Tensor | None = None

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def entries(self) -> int:
        """Cache entries held: tokens x layers."""
        return len(self) * len(self.keys) + sum(chunk.entries for chunk in self.below or ())

    def keep(self, indices: Tensor) -> Chunk:
        """The chunk with only the tokens at `indices` (kept,), in hidden states and in every layer's cache.

        Hidden states that are as many as the indices are of these tokens already.
        """
        keys, values, stack = self._kept(indices)
        done = self.hidden_states.shape[1] == len(indices)
        return dataclasses.replace(
            self,
            hidden_states=self.hidden_states if done else _take(self.hidden_states, indices, 1),
            position_ids=_take(self.position_ids, indices, 1),
            tokens=_take(self.tokens, indices, 0),
            keys=keys,
            values=values,
            below=None,
            stack=stack,
            scores=None if self.scores is None else _take(self.scores, indices, 1),
        )

    def settled(self) -> Chunk:
        """The same chunk with nothing below: keys and values of all layers are its own."""
        if self.below is None:
            return self
        keys, values, stack = self._kept(None)
        return dataclasses.replace(self, keys=keys, values=values, below=None, stack=stack)

    def run(
        self, hidden_states: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], stack: Tensor | None = None
    ) -> Chunk:
        """The chunk after its layers, which gave these hidden states, keys and values."""
        if self.keys:  # it went up a level alone
            stack = None if self.stack is None or stack is None else torch.cat([self.stack, stack])
            keys, values = self.keys + keys, self.values + values
        return dataclasses.replace(self, hidden_states=hidden_states, keys=keys, values=values, stack=stack)

    def _kept(self, indices: Tensor | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor | None]:
        """Keys, values and stack of all layers, those below included, at some tokens or at all."""
        stack = self._stacked(indices)
        if stack is None:
            return *self._entries(lambda entry: entry if indices is None else _take(entry, indices, 2)), None
        if not len(stack):  # a leaf whose keys and values lie elsewhere
            return (), (), stack
        heads = (*self.keys, *(self.below[0].keys if self.below else ()))[0].shape[1]
        return *unstack(stack, heads), stack

    def _stacked(self, indices: Tensor | None) -> Tensor | None:
        """The stack of all layers at some tokens; None where it is not there."""
        left, right = (chunk.stack for chunk in self.below or (self, self))
        if left is None or right is None or (self.stack is None and self.keys):
            return None
        own = left[:0].new_empty(0, len(self), left.shape[-1]) if self.stack is None else self.stack
        indices = torch.arange(len(self), device=own.device) if indices is None else indices
        lower = left.shape[0] if self.below else 0
        out = own.new_empty(lower + own.shape[0], len(indices), own.shape[-1])
        kernels = best(out.device)
        if len(own):
            kernels.gather_rows(out[lower:], own, indices)
        if lower:
            sources = _sources(indices, left.shape[1], right.shape[1], self.prefix_len, self.suffix_len)
            kernels.blend_rows(out[:lower], left, right, *sources)
        return out

    def _entries(self, take: Callable[[Tensor], Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What is taken of the keys and of the values of every layer, those below included."""

        def joined(a: Tensor, b: Tensor) -> Tensor:
            return take(join(a, b, 2, self.prefix_len, self.suffix_len))

        lower: tuple[tuple[Tensor, ...], ...] = ((), ())
        if self.below is not None:
            left, right = self.below
            lower = (tuple(map(joined, left.keys, right.keys)), tuple(map(joined, left.values, right.values)))
        return lower[0] + tuple(map(take, self.keys)), lower[1] + tuple(map(take, self.values))


def unstack(stack: Tensor, heads: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Keys and values in turn (2 x layers, length, features) as one (1, heads, length, head dim) view a layer."""
    sides = stack.unflatten(-1, (heads, -1)).transpose(1, 2)[:, None]  # type: ignore[no-untyped-call]
    return tuple(sides[::2]), tuple(sides[1::2])


def merge(left: Chunk, right: Chunk) -> Chunk:
    """Join two chunks: the affix is averaged, the contexts stand one after the other.

    The affix of both has the same positions, so averaging rotated keys is sound (the paper, section 3.2).
    """

    def joined(a: Tensor, b: Tensor, dim: int) -> Tensor:
        return join(a, b, dim, left.prefix_len, left.suffix_len)

    left, right = left.settled(), right.settled()
    return dataclasses.replace(
        left,
        hidden_states=joined(left.hidden_states, right.hidden_states, 1),
        position_ids=joined(left.position_ids, right.position_ids, 1),
        tokens=joined(left.tokens, right.tokens, 0),
        keys=(),
        values=(),
        below=(left, right),
        stack=None,
        scores=None if left.scores is None or right.scores is None else joined(left.scores, right.scores, 1),
    )


def join(a: Tensor, b: Tensor, dim: int, prefix_len: int, suffix_len: int) -> Tensor:
    """Two chunks' rows along `dim` as one: the affix of both averaged, the contexts side by side.

    What is no floating-point number, such as positions, is the same in both affixes, and is the left one's.
    """
    prefix_a, context_a, suffix_a = _parts(a, dim, prefix_len, suffix_len)
    prefix_b, context_b, suffix_b = _parts(b, dim, prefix_len, suffix_len)
    return torch.cat([_mean(prefix_a, prefix_b), context_a, context_b, _mean(suffix_a, suffix_b)], dim)


def _sources(indices: Tensor, left_len: int, right_len: int, prefix_len: int, suffix_len: int) -> tuple[Tensor, ...]:
    """Where the tokens at `indices` of two joined chunks come from: rows of the left, of the right, and their weights.

    The same as `join`, said of every token by itself: so what survives is fetched from both chunks in one pass, and
    the joined keys and values of those that are dropped are never made.
    """
    device, sizes = (
        indices.device,
        (prefix_len, left_len - prefix_len - suffix_len, right_len - prefix_len - suffix_len),
    )
    left, right = torch.arange(left_len, device=device), torch.arange(right_len, device=device)
    from_left = torch.cat([left[:-suffix_len], torch.zeros_like(right[: sizes[2]]), left[-suffix_len:]])
    from_right = torch.cat([right[:prefix_len], torch.zeros_like(left[: sizes[1]]), right[prefix_len:]])

    def share(*parts: float) -> Tensor:  # made where it is needed: a copy from the CPU would wait for the GPU
        runs = zip((*sizes, suffix_len), parts, strict=True)
        return torch.cat([torch.full((length,), part, device=device) for length, part in runs])

    weights = share(0.5, 1.0, 0.0, 0.5), share(0.5, 0.0, 1.0, 0.5)
    return from_left[indices], from_right[indices], weights[0][indices], weights[1][indices]


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return (a + b) / 2 if a.is_floating_point() else a


def _parts(x: Tensor, dim: int, prefix_len: int, suffix_len: int) -> tuple[Tensor, ...]:
    return torch.split(x, [prefix_len, x.shape[dim] - prefix_len - suffix_len, suffix_len], dim)


def _take(x: Tensor, indices: Tensor, dim: int) -> Tensor:
    return x.index_select(dim, indices.to(x.device))
