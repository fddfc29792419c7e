"""Training rows: plain text, and prompts exactly as the library writes them, with facts planted in documents."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from homer.prompt import DEFAULT_SYSTEM
from training.facts import ABSENT, Fact, Facts
from training.library import Texts, fill, load_prose
from training.tokenizer import ASSISTANT, END, SYSTEM, USER

LENGTH = 1024
PLAIN, AROUND, FACT, ANSWER, PROMPT = 1, 2, 3, 4, 5  # kinds of token, each with its weight in the loss
WEIGHTS = (0.0, 1.0, 0.3, 0.05, 4.0, 0.05)
QUERIES = 4
NO_QUERY = (-1, 0)


@dataclasses.dataclass
class Row:
    """One training row; arrays of LENGTH.

    Attributes:
        ids, positions: tokens and their RoPE positions.
        kinds: index into WEIGHTS of each token.
        owners: number of the fact that a token belongs to, or 0.
        context: (first, end) of the documents.
        queries: (QUERIES, 2), place of the last prompt token of a question and number of its fact; or NO_QUERY.
    """

    ids: np.ndarray
    positions: np.ndarray
    kinds: np.ndarray
    owners: np.ndarray
    context: tuple[int, int]
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
        self.line_break, self.paragraph_break = self.encode("\n"), self.encode("\n\n")

    def __iter__(self) -> Iterator[Row]:
        while True:
            yield self.plain() if self.random.random() < 0.2 else self.prompt()

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def plain(self) -> Row:
        """A stretch of a book."""
        start = self.random.randrange(len(self.books.tokens) - LENGTH)
        ids = self.books.tokens[start : start + LENGTH]
        return _row(ids.tolist(), [PLAIN] * LENGTH, [0] * LENGTH, list(range(LENGTH)), (0, 0), [])

    def prompt(self) -> Row:
        """A prompt with documents, questions and answers; what is left of the row is plain text."""
        while True:
            row = self._try_prompt()
            if row is not None:
                return row

    def _try_prompt(self) -> Row | None:
        simulated = self.random.random() < 0.3
        budget = self.random.choice((self.random.randint(10, 880), self.random.randint(600, 880)))
        facts = self.facts.draw(self.random.choice((1, 1, 2, 3, 4, 6, 8, 8, 10, 12)), self.random.random() < 0.35)
        absent = self.random.random() < 0.04
        planted = facts[1:] if absent else facts
        room = max(0, int(budget * (self.random.uniform(1, 2.5) if simulated else 1)) - 22 * len(planted))
        ids, owners = self._documents(planted, room)
        places = list(range(len(ids)))
        if simulated:
            ids, owners, places = self._merged(ids, owners, budget)
        if len(ids) > 940:
            return None
        asked = [(facts[0], ABSENT)] if absent else [(fact, fact.answer) for fact in _shuffled(self.random, facts)]
        return self._assemble(ids, owners, places, planted, asked, simulated)

    def _assemble(
        self,
        context: list[int],
        owners: list[int],
        places: list[int],
        planted: list[Fact],
        asked: list[tuple[Fact, str]],
        simulated: bool,
    ) -> Row:
        system = DEFAULT_SYSTEM if self.random.random() < 0.5 else self.random.choice(self.prose["systems"])
        prefix = [self.system, *self.encode(system), self.end, self.user]
        ids = [*prefix, *context]
        kinds = [PROMPT] * len(prefix) + [FACT if owner >= 0 else 0 if simulated else AROUND for owner in owners]
        positions = list(range(len(prefix))) + [len(prefix) + place for place in places]
        evidence = [0] * len(prefix) + [owner + 1 for owner in owners]
        queries: list[tuple[int, int]] = []
        for number, (fact, answer) in enumerate(asked[: self.random.randint(1, 12)]):
            question = self._question(fact, number > 0)
            reply = [*self.encode(answer), self.end]
            if len(ids) + len(question) + len(reply) > LENGTH:
                break
            ids += question + reply
            kinds += [PROMPT] * len(question) + [ANSWER] * len(reply)
            queries += [(len(ids) - len(reply) - 1, i + 1) for i, known in enumerate(planted) if known is fact]
        start = positions[-1] + 1 if not simulated else len(prefix) + max(places) + 1
        positions += range(start, start + len(ids) - len(positions))
        evidence += [0] * (len(ids) - len(evidence))
        bounds = (len(prefix), len(prefix) + len(context))
        return _row(*self._filled(ids, kinds, evidence, positions, simulated), bounds, queries)

    def _question(self, fact: Fact, again: bool) -> list[int]:
        opener = f"{self.random.choice(self.prose['openers'])} " if self.random.random() < 0.1 else ""
        text = f"Question: {opener}{self.random.choice(fact.questions)}"
        return [*([self.user] if again else []), *self.encode(text), self.end, self.assistant]

    def _filled(
        self, ids: list[int], kinds: list[int], evidence: list[int], positions: list[int], simulated: bool
    ) -> tuple[list[int], list[int], list[int], list[int]]:
        missing = LENGTH - len(ids)
        start = self.random.randrange(len(self.books.tokens) - LENGTH)
        ids = ids + self.books.tokens[start : start + missing].tolist()
        kinds = kinds + [0 if simulated else PLAIN] * missing
        after = range(positions[-1] + 1, positions[-1] + 1 + missing)
        return ids, kinds, evidence + [0] * missing, [*positions, *after]

    def _documents(self, facts: list[Fact], budget: int) -> tuple[list[int], list[int]]:
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
            place = self.random.randint(0, len(body))
            body.insert(place, (self.encode(self._border() + statement), owner))
        header = self.encode("Document:" + (f" {self._title()}" if self.random.random() < 0.85 else ""))
        body = self._separate(body)
        return [(header, -1), (self.line_break, -1), *body, (self.paragraph_break, -1)]

    def _separate(self, body: list[tuple[list[int], int]]) -> list[tuple[list[int], int]]:
        """The body without the border that stands before its first piece."""
        if not body:
            return body
        ids, owner = body[0]
        text = self._backend.decode(ids, skip_special_tokens=False).lstrip(" \n-")
        return [(self.encode(text), owner), *body[1:]]

    def _border(self) -> str:
        return self.random.choices((" ", "\n", "\n\n", "\n- "), (6, 2, 2, 1))[0]

    def _title(self) -> str:
        return fill(self.random.choice(self.prose["titles"]), self.facts.names)

    def _merged(self, ids: list[int], owners: list[int], budget: int) -> tuple[list[int], list[int], list[int]]:
        """The context as after merges: in 2 to 8 segments that share one range of positions, thinned to a budget."""
        segments = max(self.random.choice((2, 2, 4, 8)), -(-len(ids) // 880))
        length = -(-len(ids) // segments)
        spare = max(1, sum(owner < 0 for owner in owners))
        share = min(1.0, max(0, budget - (len(owners) - spare)) / spare)
        keep: list[bool] = []
        for _, group in itertools.groupby(range(len(ids)), key=lambda i: (owners[i] >= 0, i // 7)):
            run = list(group)
            keep += [owners[run[0]] >= 0 or self.random.random() < share] * len(run)
        kept = [i for i, stays in enumerate(keep) if stays] or [0]
        return [ids[i] for i in kept], [owners[i] for i in kept], [i % length for i in kept]


def _row(
    ids: list[int],
    kinds: list[int],
    owners: list[int],
    positions: list[int],
    context: tuple[int, int],
    queries: list[tuple[int, int]],
) -> Row:
    return Row(
        np.array(ids[:LENGTH], np.int16),
        np.array(positions[:LENGTH], np.int16),
        np.array(kinds[:LENGTH], np.uint8),
        np.array(owners[:LENGTH], np.uint8),
        context,
        np.array([*queries, *[NO_QUERY] * QUERIES][:QUERIES], np.int16),
    )


def _shuffled(random: Random, facts: list[Fact]) -> list[Fact]:
    return random.sample(facts, len(facts))


def _shares(random: Random, budget: int, count: int) -> list[int]:
    cuts = sorted(random.random() for _ in range(count - 1))
    return [int(budget * (b - a)) for a, b in zip([0.0, *cuts], [*cuts, 1.0], strict=True)]
