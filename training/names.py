"""Invented names and values, so that no fact can be memorised; one name in eight is held out from training."""

from __future__ import annotations

import json
import re
import zlib
from functools import cache
from pathlib import Path
from random import Random

_LISTS: dict[str, list[str]] = {
    name: words.split("|")
    for name, words in json.loads((Path(__file__).parent / "words.json").read_text(encoding="utf-8")).items()
}
_KINDS = {
    "company": ("", " hotel", " bakery", " Group", " Brothers", " Supplies", " Logistics", " Press"),
    "project": (" project", " migration", " trial", " programme", " study", " upgrade"),
    "product": (" pump", " station", " sensor", " lamp", " drill", " 3", " 40 heater", " printer", " gauge"),
    "event": (" summit", " fair", " workshop", " concert", " regatta", " open day"),
    "room": (" room", " hall", " lab", " office", " store", " library"),
    "vehicle": (" van", " truck", " tractor", " bus", " trailer"),
    "document": (" contract", " report", " policy", " agreement", " order", " memo"),
    "team": (" team", " crew", " desk", " committee"),
    "ship": ("", " ferry"),
    "system": (" server", " database", " gateway", " portal", " cluster"),
}


_FREE = ("quantity", "amount", "label", "words", "model_code", "figure", "day", "handle")


@cache
def plain_words() -> list[str]:
    """Plain words of the workplace passages."""
    passages = json.loads((Path(__file__).parent / "passages.json").read_text(encoding="utf-8"))["passages"]
    return sorted(set(re.findall(r"(?<![{\w])[a-z]{4,10}(?![}\w])", " ".join(passages))))


class Names:
    """Draws names and values; the same seed draws the same. `held_out` draws names that training never sees."""

    def __init__(self, random: Random, held_out: bool = False) -> None:
        self.random, self.held_out = random, held_out

    def word(self) -> str:
        """An invented proper name."""
        while True:
            word = "".join(self._syllable() for _ in range(self.random.choice((1, 2, 2, 2, 3))))
            word += self.random.choice(_LISTS["endings"]) if self.random.random() < 0.3 else ""
            if 3 <= len(word) <= 13 and (zlib.crc32(word.encode()) % 8 == 0) == self.held_out:
                return word.capitalize()

    def _syllable(self) -> str:
        return "".join(map(self.random.choice, (_LISTS["onsets"], _LISTS["middles"], _LISTS["codas"])))

    def subject(self, kind: str) -> str:
        """A subject of one of the kinds in facts.json, with its article where it needs one."""
        if kind in ("person", "place"):
            return getattr(self, kind)()  # type: ignore[no-any-return]
        ending = self.random.choice(_KINDS[kind])
        name = self.word() if self.random.random() < 0.8 else f"{self.word()} {self.word()}"
        return name if kind == "company" and not ending.islower() else f"the {name}{ending}"

    def value(self, kind: str) -> str:
        """A value of one of the kinds in facts.json."""
        return getattr(self, kind)()  # type: ignore[no-any-return]

    def person(self) -> str:
        """A full name."""
        listed = self.random.random() < 0.6 and not self.held_out
        first = self.random.choice(_LISTS["first"]) if listed else self.word()
        return f"{first} {self.random.choice(_LISTS['last']) if listed and self.random.random() < 0.7 else self.word()}"

    def place(self) -> str:
        """A town."""
        return self.word()

    def company(self) -> str:
        """A company without an article."""
        return f"{self.word()} {self.random.choice(('Group', 'Brothers', 'Supplies', 'Logistics', self.word()))}"

    def digits(self) -> str:
        """Four to six digits."""
        return "".join(self.random.choices("0123456789", k=self.random.choice((4, 5, 5, 5, 6))))

    def code(self) -> str:
        """A code such as KV-2047."""
        letters = "".join(self.random.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=2))
        return f"{letters}-{self.random.randrange(10, 10000)}"

    def money(self) -> str:
        """A price in dollars."""
        amount = self.random.choice((self.random.randrange(3, 999), self.random.randrange(10, 990) * 100))
        return f"${amount:,}"

    def date(self) -> str:
        """A day and a month."""
        return f"{self.random.randint(1, 28)} {self.random.choice(_LISTS['months'])}"

    def month(self) -> str:
        """A month."""
        return self.random.choice(_LISTS["months"])

    def year(self) -> str:
        """A year."""
        return str(self.random.randint(1780, 2049))

    def weekday(self) -> str:
        """A weekday."""
        return self.random.choice(_LISTS["weekdays"])

    def time(self) -> str:
        """A time of day."""
        return f"{self.random.randint(0, 23)}:{self.random.randrange(0, 60, 5):02}"

    def duration(self) -> str:
        """A length of time."""
        unit = self.random.choice(("minutes", "hours", "days", "weeks", "months", "years"))
        return f"{self.random.randint(2, 90)} {unit}"

    def percent(self) -> str:
        """A percentage."""
        return f"{self.random.randint(1, 99)}%"

    def count(self) -> str:
        """A small number."""
        return str(self.random.randint(2, 480))

    number = count

    def weight(self) -> str:
        """A weight."""
        return f"{self.random.randint(2, 900)} {self.random.choice(('kg', 'grams', 'tonnes'))}"

    def length(self) -> str:
        """A length."""
        return f"{self.random.randint(2, 900)} {self.random.choice(('metres', 'cm', 'km', 'mm'))}"

    def temperature(self) -> str:
        """A temperature."""
        return f"{self.random.randint(2, 260)} degrees"

    def colour(self) -> str:
        """A colour."""
        colour = self.random.choice(_LISTS["colours"])
        return colour if self.random.random() < 0.5 else f"{self.random.choice(_LISTS['shades'])} {colour}"

    def phone(self) -> str:
        """A telephone number."""
        return (
            f"{self.random.choice(('555', '0555', '020'))}{self.random.choice('- ')}{self.random.randint(1000, 9999)}"
        )

    def email(self) -> str:
        """A mail address."""
        return f"{self.word().lower()}@{self.word().lower()}.example"

    def roomno(self) -> str:
        """A room number."""
        return f"room {self.random.choice('ABCDE') if self.random.random() < 0.4 else ''}{self.random.randint(1, 499)}"

    def phrase(self) -> str:
        """An instruction."""
        return f"{self.random.choice(_LISTS['verbs'])} the {self._thing()} {self.random.choice(_LISTS['how'])}"

    def item(self) -> str:
        """A thing, with its article."""
        thing = self._thing()
        return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"

    def list3(self) -> str:
        """Three things."""
        a, b, c = self.random.sample(_LISTS["plain_items"], 3)
        return f"{a}, {b} and {c}"

    def job(self) -> str:
        """An occupation."""
        return self.random.choice(_LISTS["jobs"])

    def language(self) -> str:
        """A language."""
        return self.random.choice(_LISTS["languages"])

    def material(self) -> str:
        """A material."""
        return self.random.choice(_LISTS["materials"])

    def animal(self) -> str:
        """An animal."""
        return self.random.choice(_LISTS["animals"])

    def food(self) -> str:
        """A dish."""
        return self.random.choice(_LISTS["foods"])

    def free(self) -> str:
        """A value of no fixed kind, which can only be copied letter by letter."""
        return self.value(self.random.choice(_FREE))

    def figure(self) -> str:
        """A number as people write it: 312,450 or 3.8 or 6 to 3."""
        whole = self.random.choice((self.random.randint(2, 99), self.random.randint(2, 9999)))
        long = f"{self.random.randint(1000, 999999):,}"
        decimal = f"{whole % 100}.{self.random.randint(1, 99)}"
        pair = f"{whole % 40} {self.random.choice(('to', 'by', 'or', 'out of'))} {self.random.randint(2, 40)}"
        return self.random.choices((str(whole), long, decimal, pair), (4, 3, 3, 1))[0]

    def quantity(self) -> str:
        """A number of things or a measure: 35 litres, 16 characters, 20 readings per second."""
        unit = self.random.choice(_LISTS["units"] if self.random.random() < 0.7 else plain_words())
        rate = f" per {self.random.choice(_LISTS['rates'])}" if self.random.random() < 0.2 else ""
        return f"{'minus ' if self.random.random() < 0.03 else ''}{self.figure()} {unit}{rate}"

    def amount(self) -> str:
        """A sum of money, exact or by the piece."""
        cents = f"${self.random.randint(1, 99)}.{self.random.choice((5, 10, 20, 40, 50, 75, 80, 95)):02}"
        rate = f" per {self.random.choice(_LISTS['rates'])}"
        pence = f"{self.random.randint(2, 95)} cents"
        return self.random.choice((cents, self.money(), pence)) + (rate if self.random.random() < 0.4 else "")

    def label(self) -> str:
        """A name given to something: Tidemark, Locked Gate, Heron-Visitor, Quarry-2."""
        first, second = self.label_word(), self.label_word()
        number = str(self.random.randint(1, 99))
        forms = (first, f"{first} {second}", f"{first}-{second}", f"{first}-{number}", f"{first} {number}")
        return self.random.choice(forms)

    def label_word(self) -> str:
        """A plain word as a name, or an invented one."""
        return self.random.choice(plain_words()).capitalize() if self.random.random() < 0.6 else self.word()

    def words(self) -> str:
        """One to four plain words: slate grey, the gravel yard, tailwind."""
        chosen = self.random.sample(plain_words(), self.random.choice((1, 2, 2, 3, 4)))
        return ("the " if self.random.random() < 0.3 else "") + " ".join(chosen)

    def model_code(self) -> str:
        """A code of groups of letters and digits: SK3-MK-04, PO-77316, IP66, 5.12."""
        groups = [self._group() for _ in range(self.random.choice((1, 2, 2, 3)))]
        return self.random.choice(("-", "-", "-", ".", "/", "")).join(groups)

    def day(self) -> str:
        """A day with its weekday or its year, or a stretch of days."""
        forms = (
            f"{self.weekday()} {self.date()}",
            f"{self.date()} {self.year()}",
            f"the {self.random.choice(('first', 'second', 'third', 'last'))} {self.weekday()} of {self.month()}",
            f"{self.time()} on {self.weekday()}",
        )
        return self.random.choice(forms)

    def handle(self) -> str:
        """An address or a channel: phish@larkmoor.example, orrin-desk."""
        first, second = self.label_word().lower(), self.random.choice(plain_words())
        return self.random.choice((f"{first}@{self.word().lower()}.example", f"{first}-{second}", f"{second}-{first}"))

    def _group(self) -> str:
        letters = "".join(self.random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=self.random.randint(1, 3)))
        digits = "".join(self.random.choices("0123456789", k=self.random.randint(1, 5)))
        return self.random.choice((letters, digits, letters + digits[:2]))

    def _thing(self) -> str:
        thing = self.random.choice(_LISTS["things"])
        return thing if self.random.random() < 0.4 else f"{self.random.choice(_LISTS['adjectives'])} {thing}"
