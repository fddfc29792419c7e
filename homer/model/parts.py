"""Parts: the units of a prompt's documents, with what a question's votes make of them."""

from __future__ import annotations

import dataclasses
import functools
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
        density: (stretches, units), each stretch's votes over the square root of the length.
        passage_density: (stretches, passages), the same, each one's own title included, which says what it is about.
        sharpness: the power by which the stretches of the question are averaged, as `Question` has it.
    """

    units: tuple[list[Unit], ...]
    firsts: tuple[int, ...]
    owners: Tensor
    passages: Tensor
    tokens: Tensor
    density: Tensor
    passage_density: Tensor
    sharpness: float

    @classmethod
    def of(cls, prompt: Prompt, votes: Tensor, sharpness: float = 1.0) -> Parts:
        """The parts of a prompt whose context tokens got `votes` (stretches, context)."""
        units = tuple(split_units(document.text) for document in prompt.documents)
        counts = torch.tensor([len(each) for each in units])
        firsts = (0, *counts.cumsum(0).tolist())
        owners = torch.arange(len(units)).repeat_interleave(counts)
        numbers, inside = unit_numbers(prompt.documents, units, prompt.origins)
        votes, ones = votes.double(), torch.ones(1, votes.shape[1], dtype=torch.float64)
        sums, tokens = (_sums(each[:, inside], numbers, len(owners)) for each in (votes, ones))
        passages = _passages(units, tokens[0].long().tolist())
        whole = (_with_titles(prompt, inside, passages, owners, *side) for side in ((votes, sums), (ones, tokens)))
        return cls(
            units, firsts, owners, passages, tokens[0].long(), _density(sums, tokens), _density(*whole), sharpness
        )  # fmt: skip

    @functools.cached_property
    def passage_scores(self) -> Tensor:
        """(passages,), of the whole question."""
        return self._mean(self.passage_density)

    @functools.cached_property
    def scores(self) -> Tensor:
        """(documents,), of the best passage each; of long documents the sum of all is noise."""
        scores = self.passage_scores
        best = torch.zeros(len(self.units), dtype=scores.dtype)
        return best.scatter_reduce_(0, self.owners, scores[self.passages], "amax")

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
        worth = self._mean(self.density + passage_weight * self.passage_density[:, self.passages])
        return [[unit] for unit in worth.argsort(descending=True, stable=True).tolist()]

    def _mean(self, each: Tensor) -> Tensor:
        """(n,) power mean over the stretches of (stretches, n): what a few favour stands its ground."""
        return each.pow(self.sharpness).mean(0).pow(1 / self.sharpness)


def unit_numbers(
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
    found = torch.searchsorted(starts, numbers * longest + ends - 1, right=True) - 1
    return torch.maximum(found, firsts[numbers]), inside  # white space before the first unit is that one's


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
    """Sums over passages, each with what its document's header has: of tokens (n, context), and of units (n, units)."""
    titles = _sums(of_tokens[:, ~inside], prompt.origins[~inside, 0], len(prompt.documents))
    count = int(passages[-1]) + 1
    return (
        _sums(of_units, passages, count) + titles[:, torch.zeros(count, dtype=torch.long).scatter_(0, passages, owners)]
    )


def _sums(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """(n, count) sums of values (n, length) over `groups` (length,)."""
    return values.new_zeros(len(values), count).index_add_(1, groups, values)


def _density(votes: Tensor, tokens: Tensor) -> Tensor:
    """Votes over the square root of the length, as `significance.question.density` has it."""
    return votes / tokens.clamp(min=1).sqrt()


def _grouped(groups: Tensor, worth: Tensor) -> list[list[int]]:
    members: dict[int, list[int]] = {}
    for unit, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(unit)
    return sorted(members.values(), key=lambda each: -float(worth[groups[each[0]]]))
