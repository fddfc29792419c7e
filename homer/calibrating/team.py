"""Which heads find most together: chosen one after the other by what each adds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST_GAIN = 0.005  # what another head must add to the mean lead, a log, to be taken
FEW = 0.02  # votes below which it says nothing which passage has more


def choose_team(votes: Tensor, right: Tensor, most: int = 4) -> list[int]:
    """The heads that together tell the right passage best from the next best, one added after the other.

    Heads that each find much may all err on the same questions, such as those with a word in common with another
    passage. So heads are chosen by what they add: the log of how far the right passage leads, no more than twofold,
    since a larger lead on one question does not help another.

    Args:
        votes: (questions, heads, passages), each head's votes on passages.
        right: (questions,), the passage that answers.
        most: so many heads at most; fewer where another one would not help.
    """
    team: list[int] = []
    total, best = torch.zeros_like(votes[:, 0]), -torch.inf
    while len(team) < most:
        leads = _lead(total[:, None] + votes, right).clamp(max=math.log(2)).mean(0)
        leads[team] = -torch.inf
        if float(leads.max()) < best + LEAST_GAIN:
            break
        best = float(leads.max())
        team.append(int(leads.argmax()))
        total = total + votes[:, team[-1]]
    return team


def hits(votes: Tensor, right: Tensor) -> Tensor:
    """(questions, heads), 1.0 where the right passage has most of the votes (questions, heads, passages)."""
    return (_lead(votes, right) > 0).float()


def _lead(votes: Tensor, right: Tensor) -> Tensor:
    """(questions, heads), the log of the right passage's votes over those of the best other one."""
    index = right[:, None, None].expand(*votes.shape[:2], 1)
    own = votes.gather(2, index)[..., 0]
    others = votes.scatter(2, index, -1.0).amax(2)
    return (own + FEW).log() - (others + FEW).log()
