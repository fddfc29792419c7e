"""Chunk: affix + part of the context on its way up the tree, and the two things that happen to it."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from homer.backends.entries import Affix, Entries, join, take


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Tokens in order: prefix, context, suffix. Immutable: `merge` and `keep` give new chunks.

    Attributes:
        hidden_states: (1, length, hidden size), after the layers run so far.
        position_ids: (1, length); after a merge, left and right context share one range.
        tokens: (length,), where each token stands in prefix + context + suffix.
        entries: keys and values of each layer run so far, or since `below`.
        prefix_len, suffix_len: affix tokens at both ends.
        below: the entries of the two chunks merged into this one, which are put together when it is known which of
            their tokens stay.
        scores: (rows, length), the significance of each token so far; None before the first was measured.
    """

    hidden_states: Tensor
    position_ids: Tensor
    tokens: Tensor
    entries: Entries
    prefix_len: int
    suffix_len: int
    below: tuple[Entries, Entries] | None = None
    scores: Tensor | None = None

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def affix(self) -> Affix:
        """Tokens of prefix and of suffix."""
        return self.prefix_len, self.suffix_len

    @property
    def held(self) -> int:
        """Cache entries held: tokens x layers."""
        return sum(len(entries) * entries.length for entries in (self.entries, *(self.below or ())) if entries)

    def keep(self, indices: Tensor) -> Chunk:
        """The chunk with only the tokens at `indices` (kept,), in hidden states and in every layer's cache.

        Hidden states that are as many as the indices are of these tokens already.
        """
        done = self.hidden_states.shape[1] == len(indices)
        return dataclasses.replace(
            self,
            hidden_states=self.hidden_states if done else take(self.hidden_states, indices, 1),
            position_ids=take(self.position_ids, indices, 1),
            tokens=take(self.tokens, indices, 0),
            entries=self._of_all_layers(indices),
            below=None,
            scores=None if self.scores is None else take(self.scores, indices, 1),
        )

    def settled(self) -> Chunk:
        """The same chunk with nothing below: keys and values of all layers are its own."""
        if self.below is None:
            return self
        return dataclasses.replace(self, entries=self._of_all_layers(None), below=None)

    def run(self, hidden_states: Tensor, entries: Entries) -> Chunk:
        """The chunk after its layers, which gave these hidden states, keys and values."""
        return dataclasses.replace(self, hidden_states=hidden_states, entries=entries.above(self.entries))

    def _of_all_layers(self, indices: Tensor | None) -> Entries:
        """Keys and values of all layers, those below included, at some tokens or at all."""
        if self.below is not None:
            left, right = self.below
            return left.join(right, self.affix, self.entries, indices)
        return self.entries.take(indices) if indices is not None and self.entries else self.entries


def merge(left: Chunk, right: Chunk) -> Chunk:
    """Join two chunks: the affix is averaged, the contexts stand one after the other.

    The affix of both has the same positions, so averaging rotated keys is sound (the paper, section 3.2).
    """

    def joined(a: Tensor, b: Tensor, dim: int) -> Tensor:
        return join(a, b, dim, left.affix)

    left, right = left.settled(), right.settled()
    return dataclasses.replace(
        left,
        hidden_states=joined(left.hidden_states, right.hidden_states, 1),
        position_ids=joined(left.position_ids, right.position_ids, 1),
        tokens=joined(left.tokens, right.tokens, 0),
        entries=Entries(),
        below=(left.entries, right.entries),
        scores=None if left.scores is None or right.scores is None else joined(left.scores, right.scores, 1),
    )
