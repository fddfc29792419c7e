"""Parts: the units of a prompt's documents, with what a question's votes make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from homer.significance.sentences import PASSAGE
from homer.text.documents import Document
from homer.text.prompt import Prompt
from homer.text.units import Unit, split_units

Keep = Literal["sentences", "passages", "documents"]


@dataclasses.dataclass(frozen=True)
class Parts:
    """Units of all documents in a row, each with its tokens and its votes.

    Attributes:
        units: of each document; none of a blank one.
        firsts: for each document the number of its first unit, and at the end how many there are.
        owners: (units,), the number of each one's document.
        passages: (units,), the number of each one's passage.
        tokens: (units,), how many each one has.
        votes: (units,), what each one got of the question's votes.
        passage_scores: (passages,), votes over the square root of the length, each one's own title included, which
            says what it is about.
        scores: (documents,), of the best passage each; of long documents the sum of all is noise.
    """

    units: tuple[list[Unit], ...]
    firsts: tuple[int, ...]
    owners: Tensor
    passages: Tensor
    tokens: Tensor
    votes: Tensor
    passage_scores: Tensor
    scores: Tensor

    @classmethod
    def of(cls, prompt: Prompt, votes: Tensor) -> Parts:
        """The parts of a prompt whose context tokens got `votes` (context,)."""
        units = tuple(split_units(document.text) for document in prompt.documents)
        counts = torch.tensor([len(each) for each in units])
        firsts = (0, *counts.cumsum(0).tolist())
        owners = torch.arange(len(units)).repeat_interleave(counts)
        place, inside = unit_places(prompt.documents, units, prompt.origins)
        tokens = torch.bincount(place, minlength=len(owners))
        sums = torch.bincount(place, votes[inside].double(), minlength=len(owners))
        passages = _passages(units, tokens.tolist())
        scores = _density(*(_with_titles(prompt, inside, passages, owners, *side) for side in
                            ((votes.double(), sums), (torch.ones_like(votes).double(), tokens.double()))))  # fmt: skip
        best = torch.zeros(len(units), dtype=scores.dtype).scatter_reduce_(0, owners, scores[passages], "amax")
        return cls(units, firsts, owners, passages, tokens, sums, scores, best)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each document the share of all documents' scores."""
        return tuple((self.scores / self.scores.sum().clamp(min=1e-30)).tolist())

    def groups(self, keep: Keep, passage_weight: float) -> list[list[int]]:
        """Units that stay or go together, those of most worth first.

        Args:
            passage_weight: of a passage's votes beside a sentence's own.
        """
        if keep == "documents":
            return _grouped(self.owners, self.scores)
        if keep == "passages":
            return _grouped(self.passages, self.passage_scores)
        worth = _density(self.votes, self.tokens) + passage_weight * self.passage_scores[self.passages]
        return [[unit] for unit in worth.argsort(descending=True, stable=True).tolist()]


def unit_places(
    documents: Sequence[Document], units: Sequence[Sequence[Unit]], origins: Tensor
) -> tuple[Tensor, Tensor]:
    """For every token of a text, of those with `origins` (n, 3), the number of its unit, all documents' in a row.

    A token belongs to the unit that its last character is in.

    Returns:
        The numbers (m,), and which of the n tokens they are of, (n,) bool: others are of headers.
    """
    counts = torch.tensor([len(each) for each in units])
    firsts = counts.cumsum(0) - counts
    owners = torch.arange(len(units)).repeat_interleave(counts)
    inside = origins[:, 2] > origins[:, 1]
    numbers, ends = origins[inside, 0].long(), origins[inside, 2].long()
    longest = 1 + max(len(document.text) for document in documents)
    starts = owners * longest + torch.tensor([unit.start for each in units for unit in each], dtype=torch.long)
    place = torch.searchsorted(starts, numbers * longest + ends - 1, right=True) - 1
    return torch.maximum(place, firsts[numbers]), inside  # white space before the first unit is that one's


def _passages(units: Sequence[list[Unit]], tokens: Sequence[int]) -> Tensor:
    """(units,) numbers of passages: blocks, and of long ones the next after every `PASSAGE` tokens."""
    numbers: list[int] = []
    number, count, last = -1, 0, (-1, -1)
    for owner, each in enumerate(units):
        for unit in each:
            if (owner, unit.passage) != last or count >= PASSAGE:
                number, count, last = number + 1, 0, (owner, unit.passage)
            count += tokens[len(numbers)]
            numbers.append(number)
    return torch.tensor(numbers)


def _with_titles(
    prompt: Prompt, inside: Tensor, passages: Tensor, owners: Tensor, of_tokens: Tensor, of_units: Tensor
) -> Tensor:
    """Sums over passages, each with what the header of its document has: of tokens (context,), and of units."""
    titles = torch.bincount(prompt.origins[~inside, 0], of_tokens[~inside], minlength=len(prompt.documents))
    count = int(passages[-1]) + 1
    sums = torch.bincount(passages, of_units, minlength=count)
    return sums + titles[torch.zeros(count, dtype=torch.long).scatter_(0, passages, owners)]


def _density(votes: Tensor, tokens: Tensor) -> Tensor:
    """Votes over the square root of the length, as `significance.question.density` has it."""
    return votes / tokens.clamp(min=1).sqrt()


def _grouped(groups: Tensor, worth: Tensor) -> list[list[int]]:
    members: dict[int, list[int]] = {}
    for unit, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(unit)
    return sorted(members.values(), key=lambda each: -float(worth[groups[each[0]]]))
