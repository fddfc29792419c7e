"""Synthetic facts: a statement to plant in a document, questions about it, and the answer."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from training import wordings
from training.names import Names, plain_words

ABSENT = "Not in the documents."
_COMMON = set(
    "the a an of for at in on to is was with and by be that this it we you i do does did what which who when where how "
    "tell me give from under must no any should can".split()
)
_HELD_OUT_EVERY = 5  # of every list of wordings, those at 1, 6, 11 ... are held out from training


@dataclasses.dataclass(frozen=True)
class Fact:
    """A fact: `statement` holds the answer; `questions` are wordings that ask for it; `key` tells facts apart."""

    key: str
    statement: str
    questions: tuple[str, ...]
    answer: str


@cache
def kinds() -> list[dict[str, Any]]:
    """The kinds of facts.json."""
    loaded: list[dict[str, Any]] = json.loads((Path(__file__).parent / "facts.json").read_text(encoding="utf-8"))
    return loaded


class Facts:
    """Draws facts, in wordings that training sees or, with `held_out`, in those it never sees.

    Args:
        free: share of composed facts whose value is of no fixed kind; with it go subjects of more kinds, or none.
    """

    def __init__(self, random: Random, held_out: bool = False, free: float = 0.3) -> None:
        self.random, self.held_out, self.free = random, held_out, free
        self.names = Names(random, held_out)

    def draw(self, count: int, alike: bool = False) -> list[Fact]:
        """`count` facts about different things; `alike`: all of one kind, so that only their subjects differ."""
        drawn: dict[str, Fact] = {}
        kind = self._kind()
        for attempt in itertools.count():
            if len(drawn) == count:
                break
            fact = kind() if alike and attempt < 2 * count else self._kind()()
            drawn.setdefault(fact.key, fact)
        return list(drawn.values())

    def listed(self) -> Fact:
        """A fact of one of the kinds in facts.json."""
        return self._listed(self.random.choice(kinds()))

    def secret(self) -> Fact:
        """A fact without a subject, about a key, a code or a number."""
        name = self.random.choice(wordings.SECRETS.split(","))
        value = self.names.digits() if self.random.random() < 0.8 else self.names.code()
        statement = self._pick(wordings.SECRET_STATEMENTS).format(a=name, v=value)
        questions = [wording.format(a=name) for wording in self._side(wordings.SECRET_QUESTIONS)]
        return Fact(name, _capital(statement), tuple(map(_capital, questions)), value)

    def pass_key(self) -> Fact:
        """The fact of the pass key test, in the words of those who made it up; training never sees them."""
        value = str(self.random.randint(10000, 99999))
        statement = wordings.SECRET_STATEMENTS[1].format(a="pass key", v=value)
        return Fact("pass key", statement, (wordings.SECRET_QUESTIONS[1].format(a="pass key"),), value)

    def several(self, count: int) -> list[Fact]:
        """`count` facts about one thing, of the same kind and with different values."""
        known = self.random.choice(list(wordings.ATTRIBUTES))
        attribute, thing = self._attribute(known), self._thing()
        values: list[str] = []
        while len(values) < count:
            value = self.names.value(known)
            values += [value] if value not in values else []
        return [self._fact(f"{attribute} {thing}", attribute, thing, value) for value in values]

    def reworded(self) -> Fact:
        """A held-out fact whose question shares no word with its statement but the subject's."""
        kind, statement, question = self.random.choice(_reworded())
        subject, value = self.names.subject(kind["subject"]), self.names.value(kind["value"])
        asked = _capital(question.format(s=subject))
        return Fact(f"{kind['kind']} {subject}", _capital(statement.format(s=subject, v=value)), (asked,), value)

    def _kind(self) -> Any:
        if self.random.random() < self.free / 3:
            return self._plain
        draw = self.random.random()
        if draw < 0.45:
            kind = self.random.choice(kinds())
            return lambda: self._listed(kind)
        if draw < 0.92:
            known = self.random.choice(list(wordings.ATTRIBUTES))
            attribute = self._attribute(known)
            value = "free" if self.random.random() < self.free else known
            return lambda: self._composed(value, attribute)
        return self.secret

    def _attribute(self, value: str) -> str:
        """A known attribute, or in half of all cases one made of any words."""
        known = self.random.choice(wordings.ATTRIBUTES[value].split(","))
        draw = self.random.random()
        if draw < 0.5:
            return known
        word, other = self.random.choice(plain_words()), self.random.choice(plain_words())
        return f"{word} {known}" if draw < 0.75 else f"{word} {other}" if draw < 0.9 else word

    def _listed(self, kind: dict[str, Any]) -> Fact:
        subject, value = self.names.subject(kind["subject"]), self.names.value(kind["value"])
        key = f"{kind['kind']} {subject}"
        if self.random.random() < 0.2 and not self.held_out:
            return self._fact(key, kind["kind"].replace("_", " "), subject, value)
        statement = self._pick(kind["statements"]).format(s=subject, v=value)
        questions = [wording.format(s=subject) for wording in self._side(kind["questions"])]
        return Fact(key, self._led(statement), tuple(map(_capital, questions)), value)

    def _composed(self, value_kind: str, attribute: str) -> Fact:
        """An attribute of a plain or a named thing: "The door code for the northern archive is 48213"."""
        value = self.names.value(value_kind)
        thing = self._thing()
        return self._fact(f"{attribute} {thing}", attribute, thing, value)

    def _plain(self) -> Fact:
        """A fact that names nobody: "The nightly hotel limit is $165"."""
        kind = self.random.choice(list(wordings.ATTRIBUTES))
        known = self.random.choice(wordings.ATTRIBUTES[kind].split(","))
        word, other = self.random.choice(plain_words()), self.random.choice(plain_words())
        adjective, noun = self.random.choice(wordings.ADJECTIVES), self.random.choice(wordings.NOUNS)
        attribute = self.random.choice(
            (f"{adjective} {word} {known}", f"{adjective} {known}", f"{word} {other} {known}", f"{noun} {known}")
        )
        value = self.names.value("free" if self.random.random() < self.free else kind)
        statement = self._pick(wordings.PLAIN_STATEMENTS).format(a=attribute, v=value)
        questions = [wording.format(a=attribute) for wording in self._side(wordings.SECRET_QUESTIONS)]
        return Fact(attribute, self._led(statement), tuple(map(_capital, questions)), value)

    def _thing(self) -> str:
        if self.random.random() < self.free / 2:
            return self._named_thing()
        if self.random.random() < 0.5 - self.free / 2:
            kind = self.random.choice(("company", "project", "product", "event", "room", "team", "system", "vehicle"))
            return self.names.subject(kind)
        article = "the " if self.random.random() < 0.7 else ""
        words = wordings.ADJECTIVES if self.random.random() < 0.6 else plain_words()
        return f"{article}{self.random.choice(words)} {self.random.choice(wordings.NOUNS)}"

    def _named_thing(self) -> str:
        """A thing of several words: the Skylark 3 station, travel claims of the winter quarter."""
        name, word = self.names.label_word(), self.random.choice(plain_words())
        noun, number = self.random.choice(wordings.NOUNS), self.random.randint(2, 9)
        adjective = self.random.choice(wordings.ADJECTIVES)
        forms = (
            f"the {name} {noun}", f"the {name} {word}", f"the {name} {word} {noun}", f"the {name} {number} {noun}",
            f"{word} {noun} of the {adjective} {self.random.choice(plain_words())}", f"{word} {noun}",
            f"{noun} of {adjective} {word}", f"the {word} of the {name} {noun}",
        )  # fmt: skip
        return self.random.choice(forms)

    def _fact(self, key: str, attribute: str, thing: str, value: str) -> Fact:
        statement = self._pick(wordings.STATEMENTS).format(a=attribute, o=thing, v=value)
        questions = [wording.format(a=attribute, o=thing) for wording in self._side(wordings.QUESTIONS)]
        return Fact(key, self._led(statement), tuple(map(_capital, questions)), value)

    def _led(self, statement: str) -> str:
        """The statement, at times behind a few words such as "For the record,"."""
        if self.held_out or self.random.random() < 0.8:
            return _capital(statement)
        lead = self.random.choice(wordings.LEADS).format(person=self.names.person(), month=self.names.month())
        lower = (
            statement[:1].lower() + statement[1:]
            if statement.startswith(("The ", "It ", "We ", "For ", "Everyone ", "When ", "They "))
            else statement
        )
        return f"{lead}{lower}"

    def _pick(self, choices: Sequence[str]) -> str:
        return self.random.choice(self._side(choices))

    def _side(self, choices: Sequence[str]) -> list[str]:
        return [w for i, w in enumerate(choices) if (i % _HELD_OUT_EVERY == 1) == self.held_out]


@cache
def _reworded() -> list[tuple[dict[str, Any], str, str]]:
    """Kinds of facts.json with a held-out statement and a held-out question that have no word in common."""
    found = []
    for kind in kinds():
        sides = (
            [w for i, w in enumerate(kind[side]) if i % _HELD_OUT_EVERY == 1] for side in ("statements", "questions")
        )
        found += [(kind, a, b) for a, b in itertools.product(*sides) if not _stems(a) & _stems(b)]
    return found


def _stems(wording: str) -> set[str]:
    """Words without slots, endings, and what stands in any sentence."""
    words = re.findall(r"[a-z]+", re.sub(r"\{\w\}", "", wording.lower()))
    return {re.sub(r"(ing|ed|es|s)$", "", word) for word in words if word not in _COMMON}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
