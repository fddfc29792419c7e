"""Needles: facts at chosen depths of any text; one, several keys of which one is asked for, or several values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from random import Random
from typing import Any

from homer.base.arguments import check_whole
from homer.errors import ConfigError
from homer.experiments.cases import Case
from homer.experiments.haystack import Haystack, Question
from homer.experiments.methods import FilePath, Setup
from homer.experiments.report import Report
from homer.experiments.retrieval import DEFAULT_DEPTHS, load_cases, make_cases, read_text, run_cases

FACT = "The door code for the {key} is {value}."
QUESTION = "What is the door code for the {key}?"
PLURAL_FACT = "One of the door codes for the {key} is {value}."
PLURAL_QUESTION = "What are all the door codes for the {key}?"
NEEDLE_NEW_TOKENS = 48
_KINDS = "northern southern eastern western upper lower old new inner outer".split()
_SITES = "archive warehouse workshop laboratory gate tower depot library boathouse greenhouse".split()
MOST_KEYS = len(_KINDS) * len(_SITES)


@dataclasses.dataclass(frozen=True)
class Needles:
    """What is hidden.

    Attributes:
        fact: a statement with {value}, and with {key} where there are several keys. None: a door code.
        question: asks for it, with {key} where the statement has it. None: for the door code.
        keys: statements with different keys, of which one is asked for.
        values: statements with the key asked for and different values, all of which are asked for.

    Raises:
        ConfigError: templates without {value} or {key} where they are needed, one without the other, or counts out
            of range.
    """

    fact: str | None = None
    question: str | None = None
    keys: int = 1
    values: int = 1

    def __post_init__(self) -> None:
        check_whole("keys", self.keys, 1, MOST_KEYS, ConfigError)
        check_whole("values", self.values, 1, 100, ConfigError)
        if (self.fact is None) != (self.question is None):
            raise ConfigError("a needle and its question belong together: give both or neither")
        if self.fact is not None and "{value}" not in self.fact:
            raise ConfigError(f"the needle {self.fact!r} has no {{value}}: say where the number stands")
        if self.keys > 1 and any("{key}" not in text for text in self.templates):
            raise ConfigError(f"keys={self.keys} needs {{key}} in the needle and in its question: write it in")

    @property
    def templates(self) -> tuple[str, str]:
        """The statement and the question."""
        if self.fact is not None and self.question is not None:
            return self.fact, self.question
        return (FACT, QUESTION) if self.values == 1 else (PLURAL_FACT, PLURAL_QUESTION)

    def draw(self, random: Random) -> Question:
        """Keys and values at random; the statement asked for comes first."""
        fact, question = self.templates
        keys = [f"{_KINDS[i % 10]} {_SITES[i // 10]}" for i in random.sample(range(MOST_KEYS), self.keys)]
        numbers = [str(n) for n in random.sample(range(10000, 100000), self.keys - 1 + self.values)]
        asked, others = numbers[: self.values], numbers[self.values :]
        facts = [_fill(fact, keys[0], value) for value in asked]
        facts += [_fill(fact, key, value) for key, value in zip(keys[1:], others, strict=True)]
        return Question(_fill(question, keys[0], ""), tuple(facts), tuple(asked))


def needle_cases(
    setup: Setup,
    haystack: FilePath,
    *,
    needles: Needles | None = None,
    context_lengths: Sequence[int] | None = None,
    samples: int = 10,
    depths: int = DEFAULT_DEPTHS,
    repeat: bool = False,
) -> list[Case]:
    """Prompts with needles in a text.

    Args:
        haystack: a text, Markdown or PDF file, or a folder of them.
        needles: what is hidden; one door code by default.
        context_lengths, samples, depths: as in `passkey_cases`; other facts than the first stand at random depths.
        repeat: begin again where the text ends. Otherwise a text that is too short raises InputError.
    """
    stack = Haystack(read_text(haystack), setup.tokenizer(), repeat=repeat)
    return make_cases(setup, stack, (needles or Needles()).draw, context_lengths, samples, depths)


def needle(
    setup: Setup | None = None,
    haystack: FilePath | None = None,
    *,
    needles: Needles | None = None,
    context_lengths: Sequence[int] | None = None,
    samples: int = 10,
    depths: int = DEFAULT_DEPTHS,
    repeat: bool = False,
    data: Sequence[FilePath] | FilePath | None = None,
    max_new_tokens: int = NEEDLE_NEW_TOKENS,
    progress: bool = False,
) -> Report:
    """Share of the values found, by every method of a setup at every length and depth; all see the same cases.

    Args:
        data: JSON lines files, in place of cases made from a haystack.
        haystack, needles, context_lengths, samples, depths, repeat: see `needle_cases`.
    """
    setup = setup or Setup()
    if data is not None:
        cases = load_cases(setup, data, context_lengths=context_lengths, haystack=haystack, needles=needles)
    elif haystack is None:
        raise ConfigError("no haystack: give a file or folder with text, or data files")
    else:
        chosen = {"context_lengths": context_lengths, "samples": samples, "depths": depths, "repeat": repeat}
        cases = needle_cases(setup, haystack, needles=needles, **chosen)  # type: ignore[arg-type]
    settings: dict[str, Any] = {"data": "read"}
    if data is None:
        settings = {"data": "made", "samples": samples, "depths": depths} | dataclasses.asdict(needles or Needles())
    return run_cases("needle", setup, cases, max_new_tokens=max_new_tokens, settings=settings, progress=progress)


def _fill(template: str, key: str, value: str) -> str:
    return template.replace("{key}", key).replace("{value}", value)
