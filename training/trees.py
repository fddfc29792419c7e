"""Training trees: the leaves that a context beyond the window is cut into, and questions about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from training.data import ABSENT_SHARE, Rows
from training.facts import ABSENT, Fact

LEAVES = 8
QUESTIONS = 6
READING = 64  # tokens of a question and its answer together, at most
WIDTHS = (352, 512)  # tokens of a leaf at most: two shapes, so that compiling stays short


@dataclasses.dataclass(frozen=True)
class Tree:
    """`LEAVES` leaves, each prefix + slice of the documents + first question; and questions to read answers to.

    Since no token of the documents sees the question, one tree serves several: the first decides what
    survives, as ever, and the facts of the others are kept beside it. The first half of the leaves holds
    all of these facts.

    Attributes:
        leaves: (LEAVES, width) token ids; what stands behind a leaf's question is padding.
        owners: (LEAVES, width), number from 1 of the question that a token's fact answers, or 0.
        lengths: (3,) tokens of the prefix, of each slice, of the first question.
        reading: (QUESTIONS, READING), each question, its answer and padding.
        answer: (QUESTIONS, READING), whether a token is of the answer.
        asked: (QUESTIONS,) tokens of each question, 0 where there is none.
        known: (QUESTIONS,) whether the answer is in the documents at all.
    """

    leaves: np.ndarray
    owners: np.ndarray
    lengths: np.ndarray
    reading: np.ndarray
    answer: np.ndarray
    asked: np.ndarray
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
        drawn = facts.draw(self.random.choice((1, 1, 2, 4, 8, 8, 12, 16, 20)), self.random.random() < 0.5)
        return [facts.secret(), *drawn[1:]] if self.random.random() < 0.12 else drawn

    def _try(self, width: int) -> Tree | None:
        facts = self._facts()
        absent = self.random.random() < ABSENT_SHARE
        prefix, asked = self.rows.prefix(), self._asked(facts, absent)
        question = asked[0][0] if asked else []
        size = width - len(prefix) - len(question)
        if not question or size < width // 2:
            return None
        size -= self.random.randint(0, size // 4)
        half = LEAVES // 2 * size
        asks, others = self._context(facts[absent:QUESTIONS], half), self._context(facts[QUESTIONS:], half)
        if asks is None or others is None:
            return None
        context = [*asks[0], *others[0]]
        owners = [number + 1 + absent if 0 <= number < len(asked) - absent else 0 for number in asks[1]] + [0] * half
        slices = [(i * size, (i + 1) * size) for i in range(LEAVES)]
        head = [0] * len(prefix)
        return Tree(
            leaves=_padded([[*prefix, *context[a:b], *question] for a, b in slices], width, np.int16),
            owners=_padded([[*head, *owners[a:b]] for a, b in slices], width, np.uint8),
            lengths=np.array([len(prefix), size, len(question)], np.int16),
            **_readings(asked),
            known=np.array([not (absent and number == 0) for number in range(QUESTIONS)]),
        )

    def _asked(self, facts: list[Fact], absent: bool) -> list[tuple[list[int], list[int]]]:
        """Question and answer about each of the first facts; none if the first is too long, and up to one that is."""
        asked = []
        for number, fact in enumerate(facts[:QUESTIONS]):
            question = self.rows.question(fact)
            answer = [*self.rows.tokenize(ABSENT if absent and number == 0 else fact.answer), self.rows.end]
            if len(question) + len(answer) > READING:
                break
            asked.append((question, answer))
        return asked

    def _context(self, planted: list[Fact], length: int) -> tuple[list[int], list[int]] | None:
        """Documents cut to `length` tokens, and the owner of each; None where they or the first fact fall short."""
        tokens, owners = self.rows.documents(planted, int(length * 1.04) + 40 - 22 * len(planted))
        held = sum(owner == 0 for owner in owners[:length])
        if len(tokens) < length or (planted and held < len(self.rows.tokenize(planted[0].statement))):
            return None
        return tokens[:length], owners[:length]


def _readings(asked: list[tuple[list[int], list[int]]]) -> dict[str, np.ndarray]:
    missing = QUESTIONS - len(asked)
    reading = [[*question, *answer] for question, answer in asked] + [[]] * missing
    answers = [[0] * len(question) + [1] * len(answer) for question, answer in asked] + [[]] * missing
    return {
        "reading": _padded(reading, READING, np.int16),
        "answer": _padded(answers, READING, np.bool_),
        "asked": np.array([len(question) for question, _ in asked] + [0] * missing, np.int16),
    }


def _padded(rows: list[list[int]], width: int, kind: type) -> np.ndarray:
    return np.array([[*row, *[0] * (width - len(row))] for row in rows], kind)
