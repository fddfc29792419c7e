"""Significance as something that can be chosen, or written by a user: what scores the tokens of a chunk.

A significance looks at the last prompt token's logits, or at the question's attention, and gives every token a score.
Scores travel up the tree with their tokens, and the highest survive. `Paper` is the method's own; `Standardized` and
`Question`, in `homer.significance.question`, are this library's.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from homer.errors import ConfigError
from homer.plan.schedule import MergePlan
from homer.significance.calibration import Calibration
from homer.significance.evidence import QuestionLook, stretches
from homer.significance.scores import by_sentence, excess, own_norms, pool, running, significance
from homer.significance.sentences import number_parts

logger = logging.getLogger(__name__)


Heads = dict[int, list[int]]  # layer -> heads


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
    attention: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    target_len: int = 0
    final: bool = False

    @property
    def distances(self) -> Tensor:
        """(1, length), how far each token's position is before the last one."""
        return self.position_ids[:, -1:] - self.position_ids


class Significance:
    """Scores tokens. Override `score`; the others where what is watched or the order of survival should differ."""

    reads_sentences = True  # whether observations need them
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


ScoreFunction = Callable[[Observation], Tensor]


@dataclasses.dataclass(frozen=True)
class Paper(Significance):
    """The largest logit over heads at the layer that prunes, less the calibration bias.

    Source: Song et al., ICLR 2024, section 3.3.
    """

    reads_sentences = False

    def observe(self, first: int, end: int, layers: int) -> Iterable[int]:
        """The last layer."""
        return (end - 1,)

    def score(self, seen: Observation) -> Tensor:
        """(1, length), of the last layer alone."""
        layer = max(seen.logits)
        known = seen.calibration is not None and seen.calibration.distances > 0
        bias = seen.calibration.bias[layer] if known and seen.calibration is not None else None
        return significance(seen.logits[layer], seen.position_ids, bias)


@dataclasses.dataclass(frozen=True)
class Standardized(Significance):
    """How far any evidence head so far stands out from what it gives text without the answer, at that distance.

    A head that normally points nowhere and suddenly points somewhere outvotes one that is always loud. What a token
    once scored it keeps on its way up, so that layers which look elsewhere do no harm. Sentences survive whole, since
    the last token points at one word of the evidence.

    Args:
        first_layer: the lowest layer that counts. None: a quarter of the layers.
        evidence_heads: only heads that found at least this share of the synthetic needles that the best head found,
            where the calibration sought any; 0 takes all heads.
        carry: keep the scores of the level below.
        whole_sentences: the largest score of a sentence counts for all of it, where there is a tokenizer.
        window: otherwise, tokens over which the largest score counts for all, centred; 1 turns that off.

    Source: this library's own; the window of neighbours is SnapKV's (Li et al., 2024).
    """

    first_layer: int | None = None
    evidence_heads: float = 0.5
    carry: bool = True
    whole_sentences: bool = True
    window: int = 31

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
        """(1, length): the largest excess any head that counts gave at any layer so far, in deviations."""
        before = seen.scores if self.carry else None
        heads = self.heads(seen)
        if before is not None and not heads:
            return before
        return running(self.excess(seen, heads).amax(1), before)

    def rank(self, scores: Tensor, seen: Observation) -> Tensor:
        """(1, length): the largest score of a token's sentence, or among its neighbours."""
        if self.whole_sentences and seen.sentences is not None:
            return by_sentence(scores, seen.sentences, seen.prefix_len, seen.suffix_len)
        return pool(scores, self.window, seen.prefix_len, seen.suffix_len)

    def excess(self, seen: Observation, heads: Heads) -> Tensor:
        """(1, heads, length), standardised logits of some heads; of all watched ones where none are given."""
        heads = heads or _all_heads(seen)
        device = seen.logits[max(seen.logits)].device
        logits = torch.cat([_rows(seen.logits[layer].to(device), heads[layer], 1) for layer in heads], 1)
        norms = None if seen.calibration is None else seen.calibration.norms_on(device)
        if norms is None:
            _warn_of_own_norms()
            return own_norms(logits, seen.prefix_len, seen.suffix_len)
        chosen = (torch.cat([_rows(norm[layer], heads[layer], 0) for layer in heads]) for norm in norms)
        return excess(logits, seen.distances.to(device), *chosen)

    def heads(self, seen: Observation) -> Heads:
        """The watched heads that count; in a leaf without any, those that found the most."""
        found = None if seen.calibration is None else seen.calibration.heads
        watched = _all_heads(seen)
        if found is None or not self.evidence_heads:
            return watched
        shares = {layer: found[layer].tolist() for layer in watched}
        chosen = _at_least(shares, self.evidence_heads * float(found.max()))
        if chosen or seen.scores is not None:
            return chosen
        return _at_least(shares, max(map(max, shares.values())))


def _all_heads(seen: Observation) -> Heads:
    return {layer: list(range(seen.logits[layer].shape[1])) for layer in sorted(seen.logits)}


def _at_least(shares: dict[int, list[float]], least: float) -> Heads:
    """The heads whose share is `least` or more; layers that have none are left out."""
    chosen = {layer: [head for head, share in enumerate(row) if share >= least] for layer, row in shares.items()}
    return {layer: heads for layer, heads in chosen.items() if heads}


def _rows(x: Tensor, numbers: list[int], dim: int) -> Tensor:
    """Some places of x along `dim`; x itself where that is all of it. Views, since an index would wait for the GPU."""
    if len(numbers) == x.shape[dim]:
        return x
    return torch.stack([x.select(dim, number) for number in numbers], dim)


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


@dataclasses.dataclass(frozen=True)
class Scoring:
    """A significance and what it needs to score the tokens of one input.

    Attributes:
        sentences, passages: (length of the input,), the number of the sentence and of the passage that each token is
            in; None where not needed.
        look: how the question's tokens are watched; None where they are not.
    """

    significance: Significance = Paper()
    calibration: Calibration | None = None
    sentences: Tensor | None = None
    passages: Tensor | None = None
    look: QuestionLook | None = None

    def on(self, device: torch.device) -> Scoring:
        """The same with its tensors on a device."""
        if self.sentences is None or self.passages is None:
            return self
        return dataclasses.replace(self, sentences=self.sentences.to(device), passages=self.passages.to(device))


def scoring_for(
    significance: Significance,
    calibration: Calibration | None,
    tokenizer: Any,
    ids: Tensor,
    plan: MergePlan,
    question_span: tuple[int, int],
) -> Scoring:
    """The scoring of one input.

    Args:
        question_span: (first, end) of the suffix tokens that ask.

    Raises:
        CalibrationError: a calibration that is for other layers, or for shorter chunks, than will be pruned.
    """
    if not plan.prunes:
        return Scoring(significance, calibration)
    if calibration is not None:
        calibration.check_fits(plan.layers[-1][1], plan.suffix_start + plan.suffix_len)
    first, end = question_span
    heads = significance.question_heads(calibration)
    look = QuestionLook(heads, plan.suffix_len - end, stretches(end - first)) if heads else None
    parts = number_parts(tokenizer, ids) if significance.reads_sentences else None
    sentences, passages = parts or (None, None)
    return Scoring(significance, calibration, sentences, passages, look)


@functools.cache
def _warn_of_own_norms() -> None:
    logger.warning(
        "significance='standardized' has no calibration with means and deviations, so every chunk's own stand in for "
        "them, which loses evidence in long contexts; measure one by `homer calibrate --model MODEL --out DIR` or "
        "homer.calibrate, and give it as calibration="
    )
