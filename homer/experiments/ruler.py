"""Synthetic tasks of RULER, in words of our own: needles of four kinds, variables to track, common words to count."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable, Sequence
from random import Random

from homer.errors import ConfigError, InputError
from homer.experiments.cases import Case, CaseTokenizer
from homer.experiments.haystack import Haystack, Question
from homer.experiments.methods import FilePath, Setup
from homer.experiments.needle import Needles
from homer.experiments.retrieval import DEFAULT_DEPTHS, WINDOWS, default_lengths, make_cases, read_text
from homer.text.documents import Document
from homer.text.prompt import PromptBuilder

RULER_NEW_TOKENS = 96
_COUNT = 4  # keys, values or queries, where there are several
_HOPS = 4
_COMMON = 10  # words to be named, and how often they stand in the list, beside all others
_OFTEN, _SELDOM = 30, 3
_WORD = re.compile(r"\b[a-z]{4,10}\b")
_LISTED = "Some words of this numbered list stand in it far more often than all others."
_ASKS_WORDS = f"Which {_COMMON} words stand most often in the numbered list?"


def _queries(random: Random) -> Question:
    """Several keys, the values of all of which are asked for."""
    drawn = Needles(keys=_COUNT).draw(random)
    pairs = [re.fullmatch(r"The door code for the (.*) is (.*)\.", fact) for fact in drawn.facts]
    keys, values = zip(*(pair.groups() for pair in pairs if pair), strict=True)
    asked = f"{', the '.join(keys[:-1])} and the {keys[-1]}"
    return Question(f"What are the door codes for the {asked}?", drawn.facts, tuple(values))


def _variables(random: Random) -> Question:
    """A number that wanders from variable to variable; all that have it are asked for."""
    names: list[str] = []
    while len(names) < _HOPS + 1:
        name = "".join(random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=5))
        names += [name] if name not in names else []
    value = str(random.randrange(10000, 100000))
    facts = [f"The variable {names[0]} is set to {value}."]
    facts += [f"The variable {name} is set to the value of {before}." for before, name in itertools.pairwise(names)]
    question = f"Which variables have the value {value}? There are {len(names)} of them; name them all."
    return Question(question, tuple(facts), tuple(names), in_order=True)


_NEEDLES: dict[str, Callable[[Random], Question]] = {
    "single": Needles().draw,
    "multi-key": Needles(keys=_COUNT).draw,
    "multi-value": Needles(values=_COUNT).draw,
    "multi-query": _queries,
    "variables": _variables,
}
RULER_TASKS = (*_NEEDLES, "common words")


def ruler_cases(
    setup: Setup,
    task: str,
    haystack: FilePath,
    *,
    context_lengths: Sequence[int] | None = None,
    samples: int = 10,
    repeat: bool = False,
) -> list[Case]:
    """Cases of one of `RULER_TASKS`; a case is solved as far as its targets are named.

    Args:
        haystack: a text, Markdown or PDF file, or a folder of them: needles are hidden in it, and common words drawn.
        context_lengths: tokens of the whole prompt. None: 1, 2, 4 and 8 windows.
        samples: cases of each length.
        repeat: begin again where the text ends. Otherwise a text that is too short raises InputError.

    Raises:
        ConfigError: no such task.
        InputError: a text that is too short, or has too few words.

    Source: Hsieh et al., RULER, COLM 2024; the tasks are theirs, the sentences and the text are not.
    """
    if task not in RULER_TASKS:
        raise ConfigError(f"task={task!r} is none: give one of {', '.join(RULER_TASKS)}")
    text = read_text(haystack)
    if task in _NEEDLES:
        stack = Haystack(text, setup.tokenizer(), repeat=repeat)
        return make_cases(setup, stack, _NEEDLES[task], context_lengths, samples, DEFAULT_DEPTHS)
    lengths = default_lengths(setup, WINDOWS) if context_lengths is None else context_lengths
    lists = _Lists(text, setup)
    return [lists.case(length, f"{setup.seed} {length} {sample}") for length in lengths for sample in range(samples)]


class _Lists:
    """Numbered lists of a text's words, of which some stand ten times as often as the others."""

    def __init__(self, text: str, setup: Setup) -> None:
        tokenizer = setup.tokenizer()
        self._words, self._tokenizer = sorted(set(_WORD.findall(text))), CaseTokenizer(tokenizer)
        self._prefix, self._postfix = PromptBuilder(tokenizer).affix_texts(_ASKS_WORDS)

    def case(self, length: int, seed: str) -> Case:
        """The longest list that fits `length` tokens.

        Raises:
            InputError: no list fits, or words are wanting for a longer one.
        """
        most = len(self._words) - _COMMON
        tokens = lambda n: self._tokenizer.length(self._list(n, length, seed))  # noqa: E731
        others = bisect.bisect_right(range(1, most + 1), length, key=tokens)
        if others < 1 and most >= 1:
            raise InputError(f"a context length of {length} tokens holds no list of words: raise it")
        if others == most:
            raise InputError(
                f"the haystack holds {len(self._words):,} different words, a list of {length:,} tokens needs more: "
                f"give more text, or lower the length"
            )
        return self._list(others, length, seed)

    def _list(self, others: int, length: int, seed: str) -> Case:
        random = Random(seed)
        common = random.sample(self._words, _COMMON)
        rest = random.sample([word for word in self._words if word not in common], others)
        words = common * _OFTEN + rest * _SELDOM
        random.shuffle(words)
        numbered = " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))
        context = Document(f"{_LISTED}\n\n{numbered}").render()
        return Case(self._prefix, context, self._postfix, tuple(common), length, 0.5)
