"""What `significance.py` compares: the paper's significance, the library's, and that one changed in one thing each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homer import Observation, Significance, Standardized
from homer.significance.paper import Paper
from homer.significance.scores import running

CALIBRATIONS = ("own", "books", "long")
MAIN_VARIANTS = 7


@dataclasses.dataclass(frozen=True)
class Variant:
    """A significance, what it is calibrated on, and settings.

    Calibrations are "own", on the library's own text; "books", on held-out ones; "long", own in whole windows; or None.
    """

    name: str
    significance: Significance
    calibration: str | None = "own"
    config: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class LastLayer(Standardized):
    """Only the layer that prunes: nothing runs over layers."""

    def observe(self, first: int, end: int, layers: int) -> range:
        """The last layer."""
        return range(end - 1, end)


@dataclasses.dataclass(frozen=True)
class Mean(Standardized):
    """The mean of the `best` largest z-scores in place of the largest."""

    best: int = 2

    def score(self, seen: Observation) -> Tensor:
        """(nodes, length), running over levels as the largest does."""
        heads = self.heads(seen)
        if not heads and seen.scores is not None:
            return seen.scores
        count = min(self.best, sum(map(len, heads.values())))
        return running(self.z_scores(seen, heads).topk(count, 1).values.mean(1), seen.scores)


@dataclasses.dataclass(frozen=True)
class Sum(Standardized):
    """The sum of what every evidence head found so far, each weighted by its share of needles."""

    def score(self, seen: Observation) -> Tensor:
        """(nodes, length), adding up over layers and levels."""
        heads = self.heads(seen)
        if not heads and seen.scores is not None:
            return seen.scores
        assert seen.calibration is not None
        assert seen.calibration.heads is not None
        found = seen.calibration.heads
        weights = torch.stack([found[layer, head] for layer in heads for head in heads[layer]]).to(seen.tokens.device)
        now = torch.einsum("nhl,h->nl", self.rank_each(self.z_scores(seen, heads), seen), weights)
        return now if seen.scores is None else now + seen.scores

    def rank_each(self, z_scores: Tensor, seen: Observation) -> Tensor:
        """(nodes, heads, length), the largest of each sentence, head by head."""
        ranks = [super(Sum, self).rank(z_scores[:, head], seen) for head in range(z_scores.shape[1])]
        return torch.stack(ranks, 1)


@dataclasses.dataclass(frozen=True)
class EveryDocument(Standardized):
    """The best sentence of every document in a chunk survives before any other.

    Args:
        documents: (tokens of the prompt,), the document that each is of, -1 outside; set case by case.
    """

    documents: Tensor | None = None

    def rank(self, scores: Tensor, seen: Observation) -> Tensor:
        """(nodes, length), a document's best sentence lifted above all others."""
        ranks = super().rank(scores, seen)
        assert self.documents is not None
        number = self.documents.to(ranks.device)[seen.tokens]
        best = torch.full((len(ranks), int(number.max()) + 2), -torch.inf, device=ranks.device)
        best = best.scatter_reduce(1, number + 1, ranks, "amax").gather(1, number + 1)
        return ranks + 1000 * (ranks >= best - 0.1)  # what a sentence's tokens differ by among themselves is less


def variants(chosen: Sequence[str] | None = None) -> list[Variant]:
    """The paper's, the standardized one, and that one changed in one thing at a time: by name, or those that matter."""
    windows = {"evidence_heads": 0.0, "whole_sentences": False}
    small, first = (("max_initial_chunk_len", 384),), (("max_initial_chunk_len", 512),)
    upper, deep = (("max_chunk_len", 1024),), (("layers_warmup", 12),)
    named = [
        Variant("paper, calibrated", Paper()),
        Variant("standardized", Standardized()),
        Variant("all heads", Standardized(evidence_heads=0)),
        Variant("window 31 in place of sentences", Standardized(whole_sentences=False)),
        Variant("not carried", Standardized(carry=False)),
        Variant("standardized, not calibrated", Standardized(), None),
        Variant("all heads, window 31", Standardized(**windows)),
        Variant("paper, not calibrated", Paper(), None),
        Variant("standardized, calibrated on books", Standardized(), "books"),
        Variant("heads 0.2", Standardized(evidence_heads=0.2)),
        Variant("heads 0.8", Standardized(evidence_heads=0.8)),
        Variant("window 61 in place of sentences", Standardized(whole_sentences=False, window=61)),
        Variant("all heads, window 31, not calibrated", Standardized(**windows), None),
        Variant("all heads, window 1", Standardized(**windows, window=1)),
        Variant("last layer only", LastLayer()),
        Variant("from layer 0", Standardized(first_layer=0)),
        Variant("mean of best 2", Mean()),
        Variant("sum of heads", Sum()),
        Variant("leaves of 384", Standardized(), config=small),
        Variant("chunks of 1024", Standardized(), "long", (("max_chunk_len", 1024),)),
        Variant("1024 above leaves of 512", Standardized(), "long", (*upper, *first)),
        Variant("1024 above leaves of 512, warmup 12", Standardized(), "long", (*upper, *deep, *first)),
        Variant("warmup 12", Standardized(), config=deep),
        Variant("a sentence of every document", EveryDocument()),
    ]
    if chosen is None:
        return named[:MAIN_VARIANTS]
    if "all" in chosen:
        return named
    return [variant for variant in named if variant.name in chosen]


def in_case(significance: Significance, documents: Tensor) -> Significance:
    """The significance, told of what this case's documents are where it asks for that."""
    if isinstance(significance, EveryDocument):
        return dataclasses.replace(significance, documents=documents)
    return significance
