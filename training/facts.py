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

from training.library import load_prose
from training.names import Names

ABSENT = "Not in the documents."
_ATTRIBUTES = {
    "digits": "door code,locker number,account number,order number,gate code,badge number,asset tag,extension,"
    "ticket number",
    "code": "part number,cost centre,booking reference,serial number,batch code,licence plate,shelf code,"
    "drawing number",
    "money": "budget,daily limit,price,deposit,fee,nightly rate,allowance,fine,monthly rent,bonus",
    "date": "deadline,closing date,start date,delivery date,renewal date,review date,last day",
    "weekday": "collection day,cleaning day,meeting day,quiet day,market day,delivery day",
    "time": "opening time,closing time,start time,cut-off time,departure time,backup time",
    "duration": "warranty period,notice period,retention period,waiting time,length,refill interval,trial period",
    "percent": "discount,share,error rate,deposit rate,humidity limit,target,surcharge",
    "count": "seat count,maximum number,stock,page count,headcount,minimum order,number of beds",
    "weight": "maximum load,weight,baggage limit,gross weight",
    "length": "range,height,cable length,safe distance,depth,width",
    "temperature": "operating temperature,storage temperature,oven setting,alarm threshold",
    "person": "owner,manager,contact,approver,chair,deputy,author,first aider,keeper",
    "place": "location,home port,venue,birthplace,depot,meeting point",
    "company": "supplier,caterer,insurer,carrier,contractor,preferred agency",
    "colour": "colour,label colour,flag colour,badge colour,door colour,folder colour",
    "phone": "phone number,emergency number,help line,fax number",
    "roomno": "meeting place,office,storage place,reporting point",
    "material": "material,frame material,floor material",
    "item": "prize,gift,lost item,emblem",
}
_SECRETS = "pass key,pass word,secret number,access code,magic number,entry code,key number,vault code,hidden code"
_ADJECTIVES = [
    "annual",
    "domestic",
    "spare",
    "northern",
    "southern",
    "winter",
    "summer",
    "late",
    "early",
    "junior",
    "senior",
    "public",
    "private",
    "upper",
    "lower",
    "rear",
    "front",
    "old",
    "new",
    "second",
    "third",
    "foreign",
    "local",
    "full-time",
    "part-time",
    "spring",
    "autumn",
    "weekly",
    "monthly",
    "outer",
    "inner",
    "special",
    "regional",
    "temporary",
    "frozen",
    "printed",
    "digital",
    "main",
    "small",
    "large",
    "emergency",
    "guest",
    "visiting",
    "field",
    "night",
    "day",
    "express",
]
_NOUNS = [
    "lab",
    "staff",
    "trips",
    "store",
    "workshop",
    "archive",
    "press",
    "orders",
    "visitors",
    "claims",
    "parcels",
    "meetings",
    "reports",
    "machines",
    "tools",
    "rooms",
    "boxes",
    "vehicles",
    "samples",
    "letters",
    "students",
    "nurses",
    "drivers",
    "kitchen",
    "garden",
    "warehouse",
    "office",
    "library",
    "gallery",
    "reception",
    "terrace",
    "garage",
    "cellar",
    "roof",
    "corridor",
    "contracts",
    "purchases",
    "repairs",
    "deliveries",
    "inspections",
    "courses",
    "tickets",
    "tables",
    "interns",
    "volunteers",
    "boats",
    "tents",
    "cabins",
    "lockers",
    "printers",
    "servers",
    "sensors",
    "batteries",
    "cables",
    "valves",
    "pumps",
    "refunds",
]
_STATEMENTS = (
    "The {a} for {o} is {v}.", "The {a} of {o} is {v}.", "For {o}, the {a} is {v}.", "{o} has a fixed {a}: {v}.",
    "Please note that the {a} for {o} is {v}.", "As for {o}, its {a} is now {v}.", "The {a} of {o} was set to {v}.",
    "{a} for {o}: {v}.", "We agreed that the {a} for {o} will be {v}.", "From now on the {a} for {o} is {v}.",
    "{v} is the {a} of {o}.", "{v} is the {a} for {o}.", "It was confirmed that {v} is the {a} of {o}.",
    "They chose {v} as the {a} for {o}.", "We now use {v} as the {a} of {o}.", "With {v}, the {a} of {o} is settled.",
    "{v} was named as the {a} for {o}.", "The list shows {v} as the {a} of {o}.", "{o} has {v} as its {a}.",
    "{o} was given {v} as {a}.", "The {a} that belongs to {o} is {v}.", "{o}: {a} {v}.",
    "{o} ({a}: {v}) is on the list.",
    "When you deal with {o}, the {a} is {v}.", "The {a} of {o}, as far as we know, is {v}.",
    "Everyone should know that the {a} for {o} is {v}.", "{v} will stay the {a} of {o}.",
    "Last week the {a} for {o} became {v}.", "The current {a} of {o} is {v}.", "{o} keeps the same {a}, namely {v}.",
    "In the case of {o}, {v} is the {a}.", "The {a} is {v} for {o}.", "The {a} for {o} remains {v}.",
)  # fmt: skip
_QUESTIONS = (
    "What is the {a} for {o}?", "What is the {a} of {o}?", "Give the {a} for {o}.", "Which {a} does {o} have?",
    "Tell me the {a} of {o}.", "Do you know the {a} for {o}?", "For {o}, what is the {a}?", "I need the {a} of {o}.",
    "What was the {a} for {o} again?", "Please give me the {a} of {o}.", "What {a} does {o} have?",
    "What {a} belongs to {o}?", "Can you tell me the {a} for {o}?", "{a} of {o}?", "Find the {a} for {o}.",
    "What do the documents say is the {a} of {o}?", "Which {a} was set for {o}?", "What is {o}'s {a}?",
    "Could you look up the {a} of {o}?", "What is named as the {a} for {o}?",
)  # fmt: skip
_SECRET_STATEMENTS = (
    "The {a} is {v}.", "The {a} is {v}. Remember it. {v} is the {a}.", "The {a} is {v}. Remember it.",
    "Remember that the {a} is {v}.", "Keep in mind: the {a} is {v}.", "Here is the {a}: {v}.", "{v} is the {a}.",
    "The {a} is {v}. Do not forget it. {v} is the {a}.", "Write this down: {v} is the {a}.", "Your {a} will be {v}.",
)  # fmt: skip
_SECRET_QUESTIONS = (
    "What is the {a}?", "What was the {a}?", "Give the {a}.", "Tell me the {a}.", "Which {a} was given?",
    "Which {a} do the documents mention?", "What {a} did you find?", "Can you find the {a}?",
)  # fmt: skip
_LEADS = (
    "For the record, ", "As of today, ", "Note that ", "According to {person}, ", "Since {month}, ", "In short, ",
    "As agreed, ", "Important: ", "{person} writes that ", "To be clear, ", "Reminder: ", "We learned that ",
)  # fmt: skip
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
    """Draws facts, in wordings that training sees or, with `held_out`, in those it never sees."""

    def __init__(self, random: Random, held_out: bool = False) -> None:
        self.random, self.held_out = random, held_out
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
        name = self.random.choice(_SECRETS.split(","))
        value = self.names.digits() if self.random.random() < 0.8 else self.names.code()
        statement = self._pick(_SECRET_STATEMENTS).format(a=name, v=value)
        questions = [wording.format(a=name) for wording in self._side(_SECRET_QUESTIONS)]
        return Fact(name, _capital(statement), tuple(map(_capital, questions)), value)

    def pass_key(self) -> Fact:
        """The fact of the pass key test, in the words of those who made it up; training never sees them."""
        value = str(self.random.randint(10000, 99999))
        statement = _SECRET_STATEMENTS[1].format(a="pass key", v=value)
        return Fact("pass key", statement, (_SECRET_QUESTIONS[1].format(a="pass key"),), value)

    def _kind(self) -> Any:
        draw = self.random.random()
        if draw < 0.45:
            kind = self.random.choice(kinds())
            return lambda: self._listed(kind)
        if draw < 0.92:
            value = self.random.choice(list(_ATTRIBUTES))
            attribute = self._attribute(value)
            return lambda: self._composed(value, attribute)
        return self.secret

    def _attribute(self, value: str) -> str:
        """A known attribute, or in half of all cases one made of any words."""
        known = self.random.choice(_ATTRIBUTES[value].split(","))
        draw = self.random.random()
        if draw < 0.5:
            return known
        word = self.random.choice(_words())
        return f"{word} {known}" if draw < 0.75 else f"{word} {self.random.choice(_words())}" if draw < 0.9 else word

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

    def _thing(self) -> str:
        if self.random.random() < 0.5:
            kind = self.random.choice(("company", "project", "product", "event", "room", "team", "system", "vehicle"))
            return self.names.subject(kind)
        article = "the " if self.random.random() < 0.7 else ""
        adjective = self.random.choice(_ADJECTIVES) if self.random.random() < 0.6 else self.random.choice(_words())
        return f"{article}{adjective} {self.random.choice(_NOUNS)}"

    def _fact(self, key: str, attribute: str, thing: str, value: str) -> Fact:
        statement = self._pick(_STATEMENTS).format(a=attribute, o=thing, v=value)
        questions = [wording.format(a=attribute, o=thing) for wording in self._side(_QUESTIONS)]
        return Fact(key, self._led(statement), tuple(map(_capital, questions)), value)

    def _led(self, statement: str) -> str:
        """The statement, at times behind a few words such as "For the record,"."""
        if self.held_out or self.random.random() < 0.8:
            return _capital(statement)
        lead = self.random.choice(_LEADS).format(person=self.names.person(), month=self.names.month())
        lower = (
            statement[:1].lower() + statement[1:]
            if statement.startswith(("The ", "It ", "We ", "For ", "Everyone ", "When ", "They "))
            else statement
        )
        return f"{lead}{lower}"

    def _pick(self, wordings: Sequence[str]) -> str:
        return self.random.choice(self._side(wordings))

    def _side(self, wordings: Sequence[str]) -> list[str]:
        return [w for i, w in enumerate(wordings) if (i % _HELD_OUT_EVERY == 1) == self.held_out]


@cache
def _words() -> list[str]:
    """Plain words of the workplace passages."""
    text = " ".join(load_prose()["passages"])
    return sorted(set(re.findall(r"(?<![{\w])[a-z]{4,10}(?![}\w])", text)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
