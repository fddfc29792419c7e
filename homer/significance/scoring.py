"""Scoring: a significance, and what it needs to score the tokens of one input."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from homer.plan.schedule import MergePlan
from homer.significance.base import Significance
from homer.significance.calibration import Calibration
from homer.significance.evidence import QuestionLook, stretches
from homer.significance.paper import Paper
from homer.significance.sentences import number_parts
from homer.significance.words import shared_words


@dataclasses.dataclass(frozen=True)
class Scoring:
    """A significance and what it needs to score the tokens of one input.

    Attributes:
        sentences, passages: (length of the input,), the number of the sentence and of the passage that each token is
            in; None where not needed.
        words: (length of the input,), nats by which words of the question make each token's sentence likelier to
            answer; None where not needed.
        look: how the question's tokens are watched; None where they are not.
        documents: (length of the input,), the number of the document that each token is of, -1 for what keeps its
            place; None where nothing may change places.
        ranks: (length of the input,), the rank of each token's document by a retriever, from 1; None without one.
    """

    significance: Significance = dataclasses.field(default_factory=Paper)
    calibration: Calibration | None = None
    sentences: Tensor | None = None
    passages: Tensor | None = None
    words: Tensor | None = None
    look: QuestionLook | None = None
    documents: Tensor | None = None
    ranks: Tensor | None = None

    def on(self, device: torch.device) -> Scoring:
        """The same with its tensors on a device."""
        names = "sentences", "passages", "words", "documents", "ranks"
        numbers = {name: getattr(self, name) for name in names}
        moved = {name: x.to(device) for name, x in numbers.items() if x is not None}
        look = None if self.look is None else dataclasses.replace(self.look, weights=self.look.weights.to(device))
        return dataclasses.replace(self, **moved, look=look)  # now: a copy in the middle would wait for the GPU

    def with_documents(self, plan: MergePlan, numbers: Tensor | None, ranks: Tensor | None) -> Scoring:
        """The same with what is known of the context's documents, (context tokens,) each."""
        affix = plan.prefix_len, plan.suffix_len
        return dataclasses.replace(
            self,
            documents=None if numbers is None else pad(numbers, affix, value=-1),
            ranks=None if ranks is None else pad(ranks, affix, value=1),
        )


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
        longest = plan.suffix_start + plan.suffix_len if significance.reads_distances else 0
        calibration.check_fits(plan.layers[-1][1], longest)
    first, end = question_span
    heads = significance.question_heads(calibration)
    look = QuestionLook(heads, plan.suffix_len - end, stretches(end - first)) if heads else None
    parts = number_parts(tokenizer, ids) if significance.reads_sentences else None
    if parts is None:
        return Scoring(significance, calibration, look=look)
    words = _words(tokenizer, ids, plan, range(first, end), *parts) if significance.reads_words else None
    return Scoring(significance, calibration, *parts, words, look)


def _words(tokenizer: Any, ids: Tensor, plan: MergePlan, asking: range, *parts: Tensor) -> Tensor:
    """What the words of the question tell of the context; `asking` counts from the beginning of the suffix."""
    start = len(ids) - plan.suffix_len
    question = range(start + asking.start, start + asking.stop)
    return shared_words(tokenizer, ids.cpu(), range(plan.prefix_len, start), question, *parts)
