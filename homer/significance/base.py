"""Significance as something that can be chosen, or written by a user: what scores the tokens of a chunk.

A significance looks at the last prompt token's logits, or at the question's attention, and gives every token a score.
Scores travel up the tree with their tokens, and the highest survive. `paper` is the method's own;
`standardized` and `question` are this library's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from homer.errors import ConfigError
from homer.significance.calibration import Calibration


@dataclasses.dataclass(frozen=True)
class Observation:
    """What the last prompt token of a chunk makes of all its tokens, when the chunk's layers have run.

    Attributes:
        logits: layer -> (1, heads, length), scaled query-key logits before the softmax.
        attention: layer -> (1, heads, stretches, length), of the significance's own heads there, in their order: the
            attention of the question's tokens, averaged over each stretch of the question.
        position_ids: (1, length), RoPE positions.
        tokens: (1, length), where each token stands in prefix + context + suffix.
        scores: (rows, length), what the tokens scored on the level below; None in a leaf.
        target_len: tokens that are to stay, affix included.
        final: whether this is the last look, at all that the root holds.
        prefix_len, suffix_len: affix tokens at both ends, which are never pruned.
        layers: how many layers the model has.
        calibration: the model's, if it has one.
        sentences, passages: (1, length), the number of the sentence and of the passage that each token is in; None
            without a tokenizer.
        words: (1, length), nats by which the words that a token's sentence and passage share with the question make
            them likelier to answer it, by BM25; None without a tokenizer, or where the significance reads none.
        ranks: (1, length), the rank of the document that each token is in by a retriever, from 1; None without one.
    """

    logits: dict[int, Tensor]
    position_ids: Tensor
    tokens: Tensor
    scores: Tensor | None
    prefix_len: int
    suffix_len: int
    layers: int
    calibration: Calibration | None = None
    sentences: Tensor | None = None
    passages: Tensor | None = None
    words: Tensor | None = None
    attention: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    target_len: int = 0
    final: bool = False
    ranks: Tensor | None = None

    @property
    def distances(self) -> Tensor:
        """(1, length), how far each token's position is before the last one."""
        return self.position_ids[:, -1:] - self.position_ids


class Significance:
    """Scores tokens. Override `score`; the others where what is watched or the order of survival should differ."""

    reads_sentences = True  # whether observations need them
    reads_words = False  # whether they need the words that context and question share
    reads_distances = True  # whether it needs a calibration of all distances in a chunk, where there is one
    looks_again = False  # whether the real suffix has a last look at all that the root holds

    def observe(self, first: int, end: int, layers: int) -> Iterable[int]:
        """The layers to watch of those a chunk runs, first..end-1, in a model of so many layers."""
        return range(first, end)

    def question_heads(self, calibration: Calibration | None) -> Mapping[int, tuple[int, ...]]:
        """Layer -> the heads through which the question's tokens are watched; none unless overridden."""
        return {}

    def score(self, seen: Observation) -> Tensor:
        """(rows, length) scores, which tokens carry up the tree; one row, unless parts of a question have their own."""
        raise NotImplementedError

    def rank(self, scores: Tensor, seen: Observation) -> Tensor:
        """(1, length), by which the highest survive this pruning; the scores themselves unless overridden."""
        return scores

    def arrange(self, scores: Tensor, documents: Tensor, words: Tensor | None = None) -> Tensor | None:
        """(kept,), the order in which survivors are read anew; None leaves them in the order of the input.

        Args:
            scores: (rows, kept), of the last look.
            documents: (kept,), the number of the document that each is of; -1 for what keeps its place.
            words: (kept,), as in `Observation`.
        """
        return None


ScoreFunction = Callable[[Observation], Tensor]


@dataclasses.dataclass(frozen=True)
class Custom(Significance):
    """A user's own function of an Observation; its scores are carried and ranked as they are."""

    function: ScoreFunction

    def score(self, seen: Observation) -> Tensor:
        """(1, length), checked for its shape."""
        scores = self.function(seen)
        if not isinstance(scores, Tensor) or scores.shape != seen.tokens.shape:
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ConfigError(
                f"the significance gave {found} for {seen.tokens.shape[1]} tokens: return a tensor of shape "
                f"{tuple(seen.tokens.shape)}"
            )
        return scores.float()
