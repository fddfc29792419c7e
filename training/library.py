"""Books and workplace passages as token arrays, cut at sentence borders, so that documents are put together fast.

A piece of text is a sentence with the space or the line break before it. Byte-level BPE never merges
across such a border, so pieces put side by side are exactly the tokens of the joined text.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from training.names import Names

HELD_OUT_BOOKS = ("austen", "stoker", "hawthorne", "verne")
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z\"'])|(?<=[.!?][\"']) (?=[A-Z\"'])|(?=\n)")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Texts:
    """Token ids of many texts, and where pieces and paragraphs start in them."""

    tokens: np.ndarray  # (tokens,) uint16
    pieces: np.ndarray  # (pieces + 1,) int32, first token of each
    paragraphs: np.ndarray  # (paragraphs,) int32, number of its first piece

    def save(self, path: Path) -> None:
        """Write one compressed file."""
        np.savez_compressed(path, tokens=self.tokens, pieces=self.pieces, paragraphs=self.paragraphs)

    @classmethod
    def load(cls, path: Path) -> Texts:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["tokens"], arrays["pieces"], arrays["paragraphs"])

    def run(self, random: Random, budget: int) -> list[list[int]]:
        """Consecutive pieces from a random paragraph on, `budget` tokens or a little less."""
        start = int(self.paragraphs[random.randrange(len(self.paragraphs))])
        end = int(np.searchsorted(self.pieces, self.pieces[start] + budget, "right")) - 1
        bounds = self.pieces[start : max(end, start + 1) + 1]
        return [self.tokens[a:b].tolist() for a, b in itertools.pairwise(bounds)]


def read_books(folder: Path, held_out: bool) -> Iterator[str]:
    """The texts of the training books, or of the held-out ones."""
    for path in sorted(folder.glob("*.txt.gz")):
        if any(name in path.name for name in HELD_OUT_BOOKS) == held_out:
            yield gzip.decompress(path.read_bytes()).decode()


def load_prose() -> dict[str, list[str]]:
    """The templates of passages.json."""
    prose: dict[str, list[str]] = json.loads((Path(__file__).parent / "passages.json").read_text(encoding="utf-8"))
    return prose


def fill(template: str, names: Names) -> str:
    """A template with every slot filled anew."""

    def value(match: re.Match[str]) -> str:
        kind = match[1]
        plain = kind in ("person", "place", "date", "weekday", "month", "time", "number", "money", "percent", "colour")
        return names.value(kind) if plain else names.subject(kind)

    text = _SLOT.sub(value, template).replace(" a orange", " an orange")
    return text[:1].upper() + text[1:]


def workplace_passages(seed: int, rounds: int) -> Iterator[str]:
    """Every passage `rounds` times in a new order, with its slots filled."""
    random = Random(seed)
    names, passages = Names(random), load_prose()["passages"]
    for _ in range(rounds):
        for passage in random.sample(passages, len(passages)):
            yield fill(passage, names)


def tokenize(tokenizer: Any, paragraphs: Iterable[str], break_before: str) -> Texts:
    """Paragraphs as Texts; `break_before` stands before each."""
    pieces: list[str] = []
    starts: list[int] = []
    for paragraph in paragraphs:
        starts.append(len(pieces))
        sentences = [s for s in _SENTENCE.split(break_before + paragraph) if s.strip()]
        first = break_before + sentences[0].lstrip("\n")
        pieces += [first, *(s if s.startswith("\n") else f" {s}" for s in sentences[1:])]
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
    ids = [encoding.ids for encoding in encodings]
    bounds = np.cumsum([0, *map(len, ids)]).astype(np.int32)
    return Texts(np.concatenate([np.array(i, np.uint16) for i in ids]), bounds, np.array(starts, np.int32))
