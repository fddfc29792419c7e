"""Training rows: plain text, and prompts exactly as the library writes them, with facts planted in documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from homer.text.prompt import DEFAULT_SYSTEM
from training.facts import ABSENT, Fact, Facts
from training.library import Texts, fill, load_prose
from training.tokenizer import ASSISTANT, END, SYSTEM, USER

LENGTH = 1024
PLAIN, AROUND, FACT, ANSWER, PROMPT = 1, 2, 3, 4, 5  # kinds of token, each with its weight in the loss
WEIGHTS = (0.0, 1.0, 0.3, 0.05, 4.0, 0.05)
QUERIES = 4
NO_QUERY = (-1, 0)
ABSENT_SHARE = 0.02  # of prompts whose documents do not hold the answer


@dataclasses.dataclass
class Row:
    """One training row; arrays of LENGTH.

    Attributes:
        ids: tokens.
        kinds: index into WEIGHTS of each token.
        owners: number of the fact that a token belongs to, or 0.
        context: (first, end) of the documents.
        queries: (QUERIES, 2), index of the last prompt token of a question and number of its fact; or NO_QUERY.
    """

    ids: np.ndarray
    kinds: np.ndarray
    owners: np.ndarray
    context: np.ndarray
    queries: np.ndarray


class Rows:
    """An endless supply of rows; the same seed gives the same rows."""

    def __init__(self, folder: Path, tokenizer: Any, seed: int) -> None:
        self.random = Random(seed)
        self.facts = Facts(self.random)
        self.books, self.workplace = Texts.load(folder / "books.npz"), Texts.load(folder / "workplace.npz")
        self.prose = load_prose()
        self._backend = tokenizer.backend_tokenizer
        self.system, self.user, self.assistant, self.end = [
            tokenizer.convert_tokens_to_ids(token) for token in (SYSTEM, USER, ASSISTANT, END)
        ]
        self.line_break, self.paragraph_break = self.tokenize("\n"), self.tokenize("\n\n")

    def __iter__(self) -> Iterator[Row]:
        while True:
            yield self.plain() if self.random.random() < 0.2 else self.prompt()

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def plain(self) -> Row:
        """A stretch of a book."""
        start = self.random.randrange(len(self.books.tokens) - LENGTH)
        ids = self.books.tokens[start : start + LENGTH]
        return _row(ids.tolist(), [PLAIN] * LENGTH, [0] * LENGTH, (0, 0), [])

    def prompt(self) -> Row:
        """A prompt with documents, questions and answers; what is left of the row is plain text."""
        while True:
            row = self._try_prompt()
            if row is not None:
                return row

    def _try_prompt(self) -> Row | None:
        budget = self.random.choice((self.random.randint(10, 880), self.random.randint(600, 880)))
        facts = self.facts.draw(self.random.choice((1, 1, 2, 3, 4, 6, 8, 8, 10, 12)), self.random.random() < 0.35)
        absent = self.random.random() < ABSENT_SHARE
        planted = facts[1:] if absent else facts
        ids, owners = self.documents(planted, max(0, budget - 22 * len(planted)))
        if len(ids) > 940:
            return None
        asked = [(facts[0], ABSENT)] if absent else [(fact, fact.answer) for fact in _shuffled(self.random, facts)]
        return self._assemble(ids, owners, planted, asked)

    def _assemble(
        self,
        context: list[int],
        owners: list[int],
        planted: list[Fact],
        asked: list[tuple[Fact, str]],
    ) -> Row:
        prefix = self.prefix()
        ids = [*prefix, *context]
        kinds = [PROMPT] * len(prefix) + [FACT if owner >= 0 else AROUND for owner in owners]
        evidence = [0] * len(prefix) + [owner + 1 for owner in owners]
        queries: list[tuple[int, int]] = []
        for number, (fact, answer) in enumerate(asked[: self.random.randint(1, 12)]):
            question = [*([self.user] if number else []), *self.question(fact)]
            reply = [*self.tokenize(answer), self.end]
            if len(ids) + len(question) + len(reply) > LENGTH:
                break
            ids += question + reply
            kinds += [PROMPT] * len(question) + [ANSWER] * len(reply)
            queries += [(len(ids) - len(reply) - 1, i + 1) for i, known in enumerate(planted) if known is fact]
        missing = LENGTH - len(ids)
        start = self.random.randrange(len(self.books.tokens) - LENGTH)
        ids += self.books.tokens[start : start + missing].tolist()
        kinds += [PLAIN] * missing
        evidence += [0] * (LENGTH - len(evidence))
        return _row(ids, kinds, evidence, (len(prefix), len(prefix) + len(context)), queries)

    def prefix(self) -> list[int]:
        """A system line, and the opening of the user's turn."""
        system = DEFAULT_SYSTEM if self.random.random() < 0.5 else self.random.choice(self.prose["systems"])
        return [self.system, *self.tokenize(system), self.end, self.user]

    def question(self, fact: Fact) -> list[int]:
        """A question, the end of the user's turn and the opening of the answer."""
        opener = f"{self.random.choice(self.prose['openers'])} " if self.random.random() < 0.1 else ""
        text = f"Question: {opener}{self.random.choice(fact.questions)}"
        return [*self.tokenize(text), self.end, self.assistant]

    def documents(self, facts: list[Fact], budget: int) -> tuple[list[int], list[int]]:
        """Tokens of some titled documents, and for each token the number of the fact it belongs to, or -1."""
        count = min(self.random.choice((1, 1, 2, 3, 4, 5, 8)), 1 + budget // 60)
        shares = _shares(self.random, budget, count)
        homes = [self.random.randrange(count) for _ in facts]
        ids: list[int] = []
        owners: list[int] = []
        for number, share in enumerate(shares):
            here = [i for i, home in enumerate(homes) if home == number]
            for piece, owner in self._document([(i, facts[i].statement) for i in here], share):
                ids += piece
                owners += [owner] * len(piece)
        return ids, owners

    def _document(self, statements: list[tuple[int, str]], budget: int) -> list[tuple[list[int], int]]:
        source = self.workplace if self.random.random() < 0.5 else self.books
        body: list[tuple[list[int], int]] = [(piece, -1) for piece in source.run(self.random, budget)]
        if budget < 25 and statements:
            body = []
        for owner, statement in statements:
            at = self.random.randint(0, len(body))
            body.insert(at, (self.tokenize(self._border() + statement), owner))
        header = self.tokenize("Document:" + (f" {self._title()}" if self.random.random() < 0.85 else ""))
        body = self._separate(body)
        return [(header, -1), (self.line_break, -1), *body, (self.paragraph_break, -1)]

    def _separate(self, body: list[tuple[list[int], int]]) -> list[tuple[list[int], int]]:
        """The body without the border that stands before its first piece."""
        if not body:
            return body
        ids, owner = body[0]
        text = self._backend.decode(ids, skip_special_tokens=False).lstrip(" \n-")
        return [(self.tokenize(text), owner), *body[1:]]

    def _border(self) -> str:
        return self.random.choices((" ", "\n", "\n\n", "\n- "), (6, 2, 2, 1))[0]

    def _title(self) -> str:
        return fill(self.random.choice(self.prose["titles"]), self.facts.names)


def _row(
    ids: list[int],
    kinds: list[int],
    owners: list[int],
    context: tuple[int, int],
    queries: list[tuple[int, int]],
) -> Row:
    return Row(
        np.array(ids[:LENGTH], np.int16),
        np.array(kinds[:LENGTH], np.uint8),
        np.array(owners[:LENGTH], np.uint8),
        np.array(context, np.int16),
        np.array([*queries, *[NO_QUERY] * QUERIES][:QUERIES], np.int16),
    )


def _shuffled(random: Random, facts: list[Fact]) -> list[Fact]:
    return random.sample(facts, len(facts))


def _shares(random: Random, budget: int, count: int) -> list[int]:
    cuts = sorted(random.random() for _ in range(count - 1))
    return [int(budget * (b - a)) for a, b in zip([0.0, *cuts], [*cuts, 1.0], strict=True)]
