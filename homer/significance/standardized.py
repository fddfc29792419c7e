"""Standardized: how far evidence heads stand out from what they give text without the answer."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from homer.base.arguments import check_real
from homer.errors import ConfigError
from homer.significance.base import Observation, Significance
from homer.significance.scores import by_sentence, own_norms, pool, running, z_scores

logger = logging.getLogger(__name__)

Heads = dict[int, list[int]]  # layer -> heads


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
        check_real("evidence_heads", self.evidence_heads, 0.0, 1.0, ConfigError)

    def observe(self, first: int, end: int, layers: int) -> Iterable[int]:
        """Those from `first_layer` on; the last one in any case."""
        lowest = layers // 4 if self.first_layer is None else self.first_layer
        return range(min(max(first, lowest), end - 1), end)

    def score(self, seen: Observation) -> Tensor:
        """(1, length): the largest z-score any head that counts gave at any layer so far."""
        before = seen.scores if self.carry else None
        heads = self.heads(seen)
        if before is not None and not heads:
            return before
        return running(self.z_scores(seen, heads).amax(1), before)

    def rank(self, scores: Tensor, seen: Observation) -> Tensor:
        """(1, length): the largest score of a token's sentence, or among its neighbours."""
        if self.whole_sentences and seen.sentences is not None:
            return by_sentence(scores, seen.sentences, seen.prefix_len, seen.suffix_len)
        return pool(scores, self.window, seen.prefix_len, seen.suffix_len)

    def z_scores(self, seen: Observation, heads: Heads) -> Tensor:
        """(1, heads, length), standardised logits of some heads; of all watched ones where none are given."""
        heads = heads or _all_heads(seen)
        device = seen.logits[max(seen.logits)].device
        logits = torch.cat([_rows(seen.logits[layer].to(device), heads[layer], 1) for layer in heads], 1)
        norms = None if seen.calibration is None else seen.calibration.norms_on(device)
        if norms is None:
            _warn_of_own_norms()
            return own_norms(logits, seen.prefix_len, seen.suffix_len)
        chosen = (torch.cat([_rows(norm[layer], heads[layer], 0) for layer in heads]) for norm in norms)
        return z_scores(logits, seen.distances.to(device), *chosen)

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
    """Some rows of x along `dim`; x itself where that is all of it. Views, since an index would wait for the GPU."""
    if len(numbers) == x.shape[dim]:
        return x
    return torch.stack([x.select(dim, number) for number in numbers], dim)


@functools.cache
def _warn_of_own_norms() -> None:
    logger.warning(
        "significance='standardized' has no calibration with means and deviations, so every chunk's own stand in for "
        "them, which loses evidence in long contexts; measure one by `homer calibrate --model MODEL --out DIR` or "
        "homer.calibrate, and give it as calibration="
    )
