"""Training trees: one question, and the leaves that a context beyond the window is cut into."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from training.data import ABSENT_SHARE, Rows
from training.facts import ABSENT, Fact

LEAVES = 8
READING = 80  # question and answer together
WIDTHS = (352, 512)  # tokens of a leaf at most: two shapes, so that compiling stays short


@dataclasses.dataclass(frozen=True)
class Tree:
    """One question over `LEAVES` leaves, each prefix + slice of the documents + question.

    Attributes:
        leaves: (LEAVES, width) token ids; what stands behind a leaf's question is padding.
        wanted: (LEAVES, width), whether a token belongs to the fact that is asked for.
        lengths: (3,) tokens of the prefix, of each slice, of the question.
        reading: (READING,) the question, the answer and padding.
        answer: (READING,) whether a token is of the answer.
        known: whether the answer is in the documents at all.
    """

    leaves: np.ndarray
    wanted: np.ndarray
    lengths: np.ndarray
    reading: np.ndarray
    answer: np.ndarray
    known: np.ndarray


class Trees:
    """An endless supply of trees made of the same documents, facts and wordings as rows."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.random = rows, rows.random

    def draw(self, width: int) -> Iterator[Tree]:
        """Trees of leaves up to `width` tokens."""
        while True:
            tree = self._try(width)
            if tree is not None:
                yield tree

    def _facts(self) -> list[Fact]:
        facts = self.rows.facts
        drawn = facts.draw(self.random.choice((1, 1, 2, 4, 8, 8, 8, 12)), self.random.random() < 0.5)
        return [facts.secret(), *drawn[1:]] if self.random.random() < 0.12 else drawn

    def _try(self, width: int) -> Tree | None:
        facts = self._facts()
        absent = self.random.random() < ABSENT_SHARE
        prefix, question = self.rows.prefix(), self.rows.question(facts[0])
        answer = [*self.rows.encode(ABSENT if absent else facts[0].answer), self.rows.end]
        room = width - len(prefix) - len(question)
        size = room - self.random.randint(0, room // 4)
        if room < width // 2 or len(question) + len(answer) > READING:
            return None
        planted = facts[1:] if absent else facts
        context, owners = self.rows.documents(planted, int(LEAVES * size * 1.04) + 40 - 22 * len(planted))
        context, owners = context[: LEAVES * size], owners[: LEAVES * size]
        held = sum(owner == 0 for owner in owners)
        if len(context) < LEAVES * size or held < (0 if absent else len(self.rows.encode(facts[0].statement))):
            return None
        first = 0 if absent else owners.index(0) // size
        slices = [(i * size, (i + 1) * size) for i in _main_first(first)]
        wanted = [not absent and owner == 0 for owner in owners]
        return Tree(
            leaves=_padded([[*prefix, *context[a:b], *question] for a, b in slices], width, np.int16),
            wanted=_padded([[*[False] * len(prefix), *wanted[a:b]] for a, b in slices], width, np.bool_),
            lengths=np.array([len(prefix), size, len(question)], np.int16),
            reading=_padded([[*question, *answer]], READING, np.int16)[0],
            answer=_padded([[*[False] * len(question), *[True] * len(answer)]], READING, np.bool_)[0],
            known=np.array(not absent),
        )


def _main_first(leaf: int) -> list[int]:
    """The leaves in order, those of the half that holds `leaf` first."""
    order = list(range(LEAVES))
    half = LEAVES // 2
    return order if leaf < half else order[half:] + order[:half]


def _padded(rows: list[list[int]] | list[list[bool]], width: int, kind: type) -> np.ndarray:
    return np.array([[*row, *[0] * (width - len(row))] for row in rows], kind)
