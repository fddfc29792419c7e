"""Haystacks: text of any length, fact by fact at chosen depths, in the prompt that the model's template makes."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from homer.errors import InputError
from homer.experiments.cases import Case, CaseTokenizer
from homer.text.documents import Document
from homer.text.prompt import PromptBuilder

_SENTENCE = re.compile(r".+?(?:[.!?][\"'\u201d\u2019)]*\s+|\n\s*\n|\Z)", re.S)
_SHORTER = re.compile(r".{1,400}(?:\s+|\Z)|.{1,400}", re.S)  # for text without sentences, such as tables
_SPARE = 8  # tokens that a few seams between sentences may add
_TRIES = 6


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, the facts to hide with the first at the depth asked for, and the values that answer it.

    Facts `in_order` stand in the text as they are given, none at a depth of its own.
    """

    question: str
    facts: tuple[str, ...]
    targets: tuple[str, ...]
    in_order: bool = False


def depths_of(count: int) -> list[float]:
    """`count` depths spread evenly from 0 to 1."""
    return [round(i / (count - 1), 4) if count > 1 else 0.5 for i in range(count)]


class Haystack:
    """Sentences to hide facts among, and what makes prompts of them.

    Args:
        text: any running text.
        tokenizer: of the model to be asked; its chat template makes the prompt.
        repeat: begin again where the text ends; otherwise a text too short raises.
        system: the system message; None for the library's own.
    """

    def __init__(self, text: str, tokenizer: Any, *, repeat: bool = False, system: str | None = None) -> None:
        self.tokenizer = CaseTokenizer(tokenizer)
        self._builder, self._system, self._repeat = PromptBuilder(tokenizer), system, repeat
        self.sentences = [sentence for sentence in split_sentences(text) if sentence.strip()]
        if not self.sentences:
            raise InputError("the haystack holds no text: give a file with running text")
        self._counts = self.tokenizer.count(self.sentences)
        self.tokens = sum(self._counts)

    def case(self, question: Question, length: int, depth: float, random: Random) -> Case:
        """A case of at most `length` tokens, as near to it as whole sentences come.

        Facts after the first stand at random depths; the stretch of text that is used is random as well.

        Raises:
            InputError: no room for one sentence, or a text that is too short.
        """
        prefix, postfix = self._builder.affix_texts(question.question, self._system)
        facts = [fact if fact[-1:].isspace() else f"{fact} " for fact in question.facts]
        empty = Case(prefix, Document("".join(facts)).render(), postfix, question.targets, length, depth)
        room = length - self.tokenizer.length(empty) - _SPARE
        if room < min(self._counts):
            raise InputError(
                f"a context length of {length} tokens leaves {room} for the haystack beside question and facts, its "
                f"shortest sentence takes {min(self._counts)}: raise it"
            )
        first = random.randrange(len(self.sentences))
        depths = [depth, *(random.random() for _ in facts[1:])]
        if question.in_order:
            depths.sort()

        def fill(room: int) -> Case:
            context = Document(_hide(facts, depths, self._stretch(first, room))).render()
            return dataclasses.replace(empty, context=context)

        return self._fit(fill, room, length)

    def _fit(self, fill: Callable[[int], Case], room: int, length: int) -> Case:
        """The longest case of at most `length` tokens: sentences by themselves take more tokens than joined."""
        fitting: list[tuple[int, Case]] = []
        for step in itertools.count():
            case = fill(room)
            slack = length - self.tokenizer.length(case)
            if slack >= 0:
                fitting.append((slack, case))
            if fitting and (0 <= slack <= max(self._counts) or step >= _TRIES):
                return min(fitting, key=lambda pair: pair[0])[1]
            room += slack if slack >= 0 else slack - step
        raise AssertionError("unreachable: the count has no end")

    def _stretch(self, first: int, room: int) -> list[str]:
        """Sentences of at most `room` tokens together, counted one by one, from sentence `first` on."""
        if room > self.tokens and not self._repeat:
            raise InputError(
                f"the haystack holds {self.tokens:,} tokens, this context length needs {room:,}: give more text, "
                f"lower the length, or repeat the text (--repeat-haystack)"
            )
        chosen: list[str] = []
        used = 0
        for i in itertools.count(first):
            count = self._counts[i % len(self._counts)]
            if used + count <= room:
                chosen.append(self.sentences[i % len(self._counts)])
                used += count
            elif chosen or i - first >= len(self._counts):  # a first sentence that is too long is passed over
                return chosen
        raise AssertionError("unreachable: the count has no end")


def split_sentences(text: str) -> list[str]:
    """A text in sentences of at most 400 characters with the white space after them; joined, they are the text."""
    return [part for sentence in _SENTENCE.findall(text) for part in _SHORTER.findall(sentence)]


def _hide(facts: Sequence[str], depths: Sequence[float], sentences: Sequence[str]) -> str:
    """Facts between sentences, each at its depth by characters."""
    ends = list(itertools.accumulate(map(len, sentences), initial=0))
    indices = [bisect.bisect_left(ends, depth * ends[-1]) for depth in depths]
    pieces = list(sentences)
    for index, fact in sorted(zip(indices, facts, strict=True), key=lambda pair: -pair[0]):
        pieces.insert(index, fact)
    return "".join(pieces).strip()
