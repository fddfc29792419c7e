"""Looking from the question: attention of the question's own tokens by the heads that find what it asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

MOST_STRETCHES = 16  # of a question; each has a score of its own, so that none of several questions wins alone


@dataclasses.dataclass(frozen=True)
class QuestionLook:
    """Which tokens of a chunk look, and by which heads.

    Attributes:
        heads: layer -> heads; layers without any are not watched.
        behind: tokens behind the question at the end of the chunk, such as the template's.
        weights: (stretches, question tokens), float32, by which the attention of the question's tokens is averaged.
        padding: (batch, length), bool, True where a chunk holds padding; None where none does.
    """

    heads: Mapping[int, tuple[int, ...]]
    behind: int
    weights: Tensor
    padding: Tensor | None = None

    def attention(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> Tensor:
        """How much of their attention the question's tokens give to every token, by each of the layer's heads.

        Args:
            query: (batch, heads, queries, head dim), rotated, of the chunk's last tokens.
            key: (batch, key heads, length, head dim), rotated; query heads share key heads in groups.

        Returns:
            (batch, heads, stretches, length), float32; every row sums to 1.
        """
        chosen = self.heads[layer]
        group = query.shape[1] // key.shape[1]
        count, length = self.weights.shape[1], key.shape[2]
        end = query.shape[2] - self.behind
        queries = pick_heads(query, chosen)[:, :, end - count : end].float()
        keys = pick_heads(key, [head // group for head in chosen]).float()
        logits = queries @ keys.transpose(2, 3) * scaling
        ahead = torch.ones(count, length, dtype=torch.bool, device=key.device).triu(length - self.behind - count + 1)
        logits = logits.masked_fill(ahead, -torch.inf)
        if self.padding is not None:
            logits = logits.masked_fill(self.padding[:, None, None], -torch.inf)
        return self.weights.to(logits.device) @ logits.softmax(-1)

    def within(self, layers: range) -> QuestionLook | None:
        """The same in some layers only; None where no head of them is watched."""
        heads = {layer: heads for layer, heads in self.heads.items() if layer in layers}
        return dataclasses.replace(self, heads=heads) if heads else None


def stretches(count: int, most: int = MOST_STRETCHES) -> Tensor:
    """(stretches, count): means over stretches of a question of `count` tokens; single tokens where it is short."""
    number = torch.arange(count) * min(count, most) // count
    rows = (number == torch.arange(min(count, most))[:, None]).float()
    return rows / rows.sum(1, keepdim=True)


def pick_heads(x: Tensor, heads: tuple[int, ...] | list[int]) -> Tensor:
    """(batch, heads, ...) at some heads. Slices, since an index of numbers would wait for the GPU."""
    if list(heads) == list(range(x.shape[1])):
        return x
    return torch.cat([x[:, head : head + 1] for head in heads], 1)
