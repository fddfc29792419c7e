"""Scores: log-probabilities of the tokens that a step chose, measured where the logits are and read with the tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Score:
    """How likely the model held a token.

    Attributes:
        logprob: natural logarithm of its probability.
        top: (token, the same of it) of the likeliest ones, likeliest first.
    """

    logprob: float
    top: list[tuple[int, float]]


def measure(logits: Tensor, tokens: Tensor, wanted: Sequence[int | None]) -> list[Tensor]:
    """What `told` reads, of tokens (rows,) chosen from logits (rows, vocabulary), before anything changed them.

    All rows at once, since picking out those that want it would cost a copy to the device.

    Args:
        wanted: of each row how many of the likeliest; None where nothing is wanted.

    Returns:
        Nothing where no row wants it; else (rows, 1), and of the likeliest their values and ids, (rows, most).
    """
    asked = [count for count in wanted if count is not None]
    if not asked:
        return []
    logits = logits.float()
    whole = logits.logsumexp(-1, keepdim=True)
    values, ids = logits.topk(min(max(asked), logits.shape[-1]), -1)
    return [logits.gather(-1, tokens.view(-1, 1).to(logits.device)) - whole, values - whole, ids]


def told(measured: Sequence[Any], wanted: Sequence[int | None]) -> list[Score | None]:
    """The scores of each row, from the numbers of what `measure` gave."""
    if not measured:
        return [None] * len(wanted)
    rows = zip(*measured, wanted, strict=True)
    return [
        None if count is None else Score(chosen, list(zip(ids, values, strict=True))[:count])
        for (chosen,), values, ids, count in rows
    ]
