"""Significance by the question: what its own tokens look at, through the few heads that find what is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from homer.base.arguments import check_real, check_whole
from homer.errors import CalibrationError, ConfigError
from homer.significance.base import Observation, Significance
from homer.significance.calibration import Calibration

_WEIGHTS = {"evidence_heads": 1.0, "passages": None, "words": None, "prior": 16.0, "sharpness": 16.0}  # at most
_LEAST = 1e-30  # of worth: nothing at all has a logarithm too
FAINT = 1e-2  # attention that a stretch of the question must give to count: less is noise


@dataclasses.dataclass(frozen=True)
class Question(Significance):
    """How much of their attention the question's tokens give to a token, by the heads that find what is asked for.

    Each stretch of the question has one vote and spreads it over the context, so that of several questions none wins
    alone. Whole sentences survive (rows of a table, lines of code), by their own votes and by their passage's: the
    sentence that answers is often not the one that the question resembles, but it stands beside it. On the way up the
    tree the attention of the levels adds up; at the root, the real suffix looks once more at all that is left, through
    all heads.

    Args:
        most_heads: so many heads at most, those that find most together by the calibration.
        evidence_heads: where it knows no team, the best ones, if they find this part of what the best one does.
        passages: the weight of a passage's votes beside a sentence's own; 0 looks at sentences alone.
        sharpness: the power to which a stretch's votes are raised before those of all are added. Above 1, what a few
            stretches favour, such as the second of two questions, stands its ground against what all favour a little.
        words: how much the words that a sentence and its passage share with the question count beside attention, as a
            power of what BM25 makes of them; 0 leaves it to attention alone.
        prior: how much a retriever's scores of the documents count, where they have any: the votes of the document of
            rank r are worth r to the power of -prior. 0: not at all; 1: the second best half of the best.
        best_last: whether the documents are read in the order of their worth, the best beside the question, where a
            model reads best; else in the order given.

    Source: the heads are those of QRHead (Zhang et al., EMNLP 2025) and in-context re-ranking (Chen et al., ICLR
    2025), which rank documents; votes, sentences and the way up the tree are this library's own.
    """

    most_heads: int = 4
    evidence_heads: float = 0.5
    passages: float = 2.0
    sharpness: float = 1.5
    words: float = 0.2
    prior: float = 0.0
    best_last: bool = True

    reads_distances = False
    looks_again = True

    @property
    def reads_words(self) -> bool:  # type: ignore[override]
        """Whether words have any weight."""
        return self.words > 0

    def __post_init__(self) -> None:
        check_whole("most_heads", self.most_heads, 1, error=ConfigError)
        for name, most in _WEIGHTS.items():
            check_real(name, getattr(self, name), 0.0, most, ConfigError)
        if not self.sharpness:
            raise ConfigError(f"sharpness=0 leaves no vote: give a power above 0, {_WEIGHTS['sharpness']} at most")

    def observe(self, first: int, end: int, layers: int) -> Iterable[int]:
        """None: the last token has no say."""
        return ()

    def question_heads(self, calibration: Calibration | None) -> Mapping[int, tuple[int, ...]]:
        """The best heads by the calibration, layer -> heads.

        Raises:
            CalibrationError: a calibration without them, or none.
        """
        if calibration is None or calibration.question_heads is None:
            raise CalibrationError(
                "significance='question' needs a calibration that knows the heads which find what a question asks for: "
                "leave calibration=None, and they are measured when first needed, which takes the model's tokenizer"
            )
        if calibration.team:
            return by_layer(calibration.team[: self.most_heads])
        return best_heads(calibration.question_heads, self.most_heads, self.evidence_heads)

    def score(self, seen: Observation) -> Tensor:
        """(stretches, length): attention so far, added up over heads; at the last look, each head's share."""
        heads = [one for layer in sorted(seen.attention) for one in seen.attention[layer][0]]
        if not heads:
            return (
                torch.zeros(1, seen.tokens.shape[1], device=seen.tokens.device) if seen.scores is None else seen.scores
            )
        device = heads[-1].device
        if seen.final:
            each = [votes(one.to(device), seen.prefix_len, seen.suffix_len) for one in heads]
            return self.weighed(torch.stack(each).mean(0), seen.ranks)
        now = torch.stack([one.to(device) for one in heads]).sum(0)
        return now if seen.scores is None else now + seen.scores.to(device)

    def rank(self, scores: Tensor, seen: Observation) -> Tensor:
        """(1, length): the order of survival, whole sentences one after the other."""
        each = votes(scores, seen.prefix_len, seen.suffix_len)
        each = each if seen.final else self.weighed(each, seen.ranks)
        if seen.sentences is None or seen.passages is None:
            return each.pow(self.sharpness).mean(0, keepdim=True)
        start, end = seen.prefix_len, each.shape[1] - seen.suffix_len
        context = each[:, start:end]
        sentences, passages = (number[0, start:end].to(each.device) for number in (seen.sentences, seen.passages))
        worth = density(context, sentences) + self.passages * density(context, passages)
        likely = worth.pow(self.sharpness).mean(0).clamp(min=_LEAST).log()
        if seen.words is not None:
            likely = likely + self.words * seen.words[0, start:end].to(each.device)
        ranks = torch.zeros_like(each[:1])
        ranks[0, start:end] = in_order(likely, sentences)
        return ranks

    def weighed(self, votes: Tensor, ranks: Tensor | None) -> Tensor:
        """Votes (..., length) by what a retriever thought of the documents: a prior after Zipf's law, by rank alone."""
        return votes if ranks is None or not self.prior else votes * ranks.to(votes.device).float() ** -self.prior

    def arrange(self, scores: Tensor, documents: Tensor, words: Tensor | None = None) -> Tensor | None:
        """The order of the documents' worth; each document stays as it is, and so does what is before and behind all.

        The last passages of a prompt are read best (Liu et al., Lost in the Middle, 2023), by small models above all.
        """
        moves = (documents >= 0).nonzero().flatten()
        if not self.best_last or not len(moves):
            return None
        index = torch.arange(len(documents), device=documents.device)
        looked = scores.mean(0)
        if words is not None:
            looked = looked * (self.words * (words - words.max())).exp()
        worth = density(looked, documents)
        worth = worth.masked_fill(index < moves[0], -torch.inf).masked_fill(index > moves[-1], torch.inf)
        return worth.argsort(stable=True)


def votes(attention: Tensor, prefix_len: int, suffix_len: int) -> Tensor:
    """Every row's attention to the context as shares of what it gives the context at all: (rows, length)."""
    inside = attention.clone()
    inside[:, :prefix_len] = 0
    inside[:, attention.shape[1] - suffix_len :] = 0
    return inside / (inside.sum(1, keepdim=True) + FAINT)


def density(values: Tensor, groups: Tensor) -> Tensor:
    """The sum over each token's group, over the square root of the group's length, for values (..., length).

    A plain mean would favour fragments, a plain sum the longest group. What is left of a group stands together.
    """
    run = runs(groups)
    sums = torch.zeros_like(values).index_add_(-1, run, values)
    lengths = sums.new_zeros(values.shape[-1]).index_add_(0, run, sums.new_ones(values.shape[-1]))
    return (sums / lengths.clamp(min=1).sqrt())[..., run]


def in_order(worth: Tensor, groups: Tensor) -> Tensor:
    """Ranks (length,) by which groups survive whole, the one of most worth first, and of one its beginning."""
    run = runs(groups)
    order = worth.argsort(descending=True, stable=True)
    position = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    first = torch.full_like(position, len(position)).scatter_reduce_(0, run, position, "amin")[run]
    inside = torch.arange(len(worth), device=worth.device) / (len(worth) + 1)
    return -(first.to(worth.dtype) + inside.to(worth.dtype))


def runs(groups: Tensor) -> Tensor:
    """(length,) numbers that count the runs of equal ones: 0, 0, 1, 2, 2 and so on."""
    return torch.nn.functional.pad((groups.diff() != 0).long().cumsum(0), (1, 0))


def best_heads(shares: Tensor, most: int, least: float) -> dict[int, tuple[int, ...]]:
    """Layer -> heads of the largest of shares (layers, heads): `most` of them, none below `least` of the largest."""
    values, order = shares.flatten().sort(descending=True)
    count = min(most, int((values >= least * values[0]).sum()))
    return by_layer([divmod(head, shares.shape[1]) for head in order[:count].tolist()])


def by_layer(heads: Iterable[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    """(layer, head) each -> layer -> heads."""
    found: dict[int, list[int]] = {}
    for layer, head in sorted(heads):
        found.setdefault(layer, []).append(head)
    return {layer: tuple(chosen) for layer, chosen in found.items()}
