"""Significance as something that can be chosen, or written by a user: what scores the tokens of a chunk.

A significance looks at the last prompt token's logits and gives every token a score. Scores travel up the tree
with their tokens, and the highest survive. `Paper` is the method's own; `Standardized` is this library's.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from homer.calibration import Calibration
from homer.errors import ConfigError
from homer.significance import excess, own_norms, pool, running, significance

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Observation:
    """What the last prompt token of a chunk makes of all its tokens, when the chunk's layers have run.

    Attributes:
        logits: layer -> (1, heads, length), scaled query-key logits before the softmax.
        position_ids: (1, length), RoPE positions.
        tokens: (1, length), where each token stands in prefix + context + suffix.
        scores: (1, length), what the tokens scored on the level below; None in a leaf.
        prefix_len, suffix_len: affix tokens at both ends, which are never pruned.
        layers: how many layers the model has.
        calibration: the model's, if it has one.
    """

    logits: dict[int, Tensor]
    position_ids: Tensor
    tokens: Tensor
    scores: Tensor | None
    prefix_len: int
    suffix_len: int
    layers: int
    calibration: Calibration | None = None

    @property
    def distances(self) -> Tensor:
        """(1, length), how far each token's position is before the last one."""
        return self.position_ids[:, -1:] - self.position_ids


class Significance:
    """Scores tokens. Override `score`; the others where the layers watched or the order of survival should differ."""

    def observe(self, first: int, end: int, layers: int) -> Iterable[int]:
        """The layers to watch of those a chunk runs, first..end-1, in a model of so many layers."""
        return range(first, end)

    def score(self, seen: Observation) -> Tensor:
        """(1, length) scores, which tokens carry up the tree."""
        raise NotImplementedError

    def rank(self, scores: Tensor, seen: Observation) -> Tensor:
        """(1, length), by which the highest survive this pruning; the scores themselves unless overridden."""
        return scores


ScoreFunction = Callable[[Observation], Tensor]


@dataclasses.dataclass(frozen=True)
class Paper(Significance):
    """The largest logit over heads at the layer that prunes, less the calibration bias.

    Source: Song et al., ICLR 2024, section 3.3.
    """

    def observe(self, first: int, end: int, layers: int) -> Iterable[int]:
        """The last layer."""
        return (end - 1,)

    def score(self, seen: Observation) -> Tensor:
        """(1, length), of the last layer alone."""
        layer = max(seen.logits)
        bias = None if seen.calibration is None else seen.calibration.bias[layer]
        return significance(seen.logits[layer], seen.position_ids, bias)


@dataclasses.dataclass(frozen=True)
class Standardized(Significance):
    """How far any head so far stands out from what it gives text without the answer, at that layer and distance.

    A head that normally points nowhere and suddenly points somewhere outvotes one that is always loud. What a token
    once scored it keeps on its way up, so that layers which look elsewhere do no harm. Neighbours of a token that
    stands out survive with it, since the last token points at one word of the evidence.

    Args:
        first_layer: the lowest layer that counts. None: a quarter of the layers.
        window: tokens over which the largest score counts for all, centred; 1 turns that off.
        carry: keep the scores of the level below.
        evidence_heads: only heads that found the evidence in at least this share of the calibration's synthetic
            needles; 0 takes all heads.

    Source: this library's own; the window of neighbours is SnapKV's (Li et al., 2024).
    """

    first_layer: int | None = None
    window: int = 31
    carry: bool = True
    evidence_heads: float = 0.0

    def __post_init__(self) -> None:
        if self.window < 1 or self.window % 2 == 0:
            raise ConfigError(f"window={self.window} has no middle: give an odd number of at least 1")
        if not 0 <= self.evidence_heads <= 1:
            raise ConfigError(f"evidence_heads={self.evidence_heads} is no share: give a number from 0 to 1")

    def observe(self, first: int, end: int, layers: int) -> Iterable[int]:
        """Those from `first_layer` on; the last one in any case."""
        lowest = layers // 4 if self.first_layer is None else self.first_layer
        return range(min(max(first, lowest), end - 1), end)

    def score(self, seen: Observation) -> Tensor:
        """(1, length): the largest excess any head gave at any layer so far, in deviations."""
        return running(self.excess(seen).amax(1), seen.scores if self.carry else None)

    def rank(self, scores: Tensor, seen: Observation) -> Tensor:
        """(1, length): the largest score among a token's neighbours in the context."""
        return pool(scores, self.window, seen.prefix_len, seen.suffix_len)

    def excess(self, seen: Observation) -> Tensor:
        """(1, heads of all watched layers, length), standardised logits."""
        layers = sorted(seen.logits)
        device = seen.logits[layers[-1]].device
        logits = torch.stack([seen.logits[layer].to(device) for layer in layers], 1)
        norms = None if seen.calibration is None else seen.calibration.norms_on(device)
        if norms is None:
            _warn_of_own_norms()
            return own_norms(logits, seen.prefix_len, seen.suffix_len).flatten(1, 2)
        standard = excess(logits, seen.distances.to(device), *(norm[layers] for norm in norms)).flatten(1, 2)
        return standard[:, self._heads(seen, layers)] if self.evidence_heads else standard

    def _heads(self, seen: Observation, layers: list[int]) -> Tensor:
        """Which of the watched layers' heads count, as a mask; all where none of them is an evidence head."""
        found = None if seen.calibration is None else seen.calibration.heads
        if found is None:
            raise ConfigError(
                "evidence_heads needs a calibration that knows them: measure one by homer calibrate --heads"
            )
        chosen = found[layers].flatten() >= self.evidence_heads
        return chosen if chosen.any() else torch.ones_like(chosen)


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


NAMED: dict[str, Significance] = {"paper": Paper(), "standardized": Standardized()}


def as_significance(given: str | Significance | ScoreFunction) -> Significance:
    """What a HomerConfig names, or the function it holds."""
    if isinstance(given, str):
        return NAMED[given]
    return given if isinstance(given, Significance) else Custom(given)


@functools.cache
def _warn_of_own_norms() -> None:
    logger.warning(
        "significance='standardized' has no calibration with means and deviations, so every chunk's own stand in for "
        "them, which loses evidence in long contexts; measure one by `homer calibrate --model MODEL --out DIR` or "
        "homer.calibrate, and give it as calibration="
    )
