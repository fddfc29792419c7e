"""Prompts made for measuring: text, questions that it does not answer, and needles that answer them."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from homer.calibrating.base import Measurable
from homer.errors import CalibrationError
from homer.text.prompt import Prompt

_ATTRIBUTES = (
    "door code,account number,part number,daily limit,deadline,opening time,notice period,discount,owner,manager,"
    "location,supplier,colour,phone number,material,serial number,price,delivery date,weight,storage place"
).split(",")
_KINDS = (
    "northern,southern,annual,spare,upper,lower,inner,outer,winter,summer,old,new,second,third,private,public,local,"
    "regional,temporary,emergency,printed,digital,junior,senior"
).split(",")
_THINGS = (
    "archive,warehouse,workshop,laboratory,gate,tower,depot,library,boathouse,greenhouse,press,contract,order,van,"
    "ferry,server,printer,festival,course,kitchen,garden,cellar,committee,project"
).split(",")
_QUESTIONS = (
    "What is the {a} for the {o}?",
    "What is the {a} of the {o}?",
    "Which {a} does the {o} have?",
    "Tell me the {a} of the {o}.",
    "For the {o}, what is the {a}?",
    "What do the documents say is the {a} for the {o}?",
)
_STATEMENTS = (
    "The {a} for the {o} is {v}.",
    "The {a} of the {o} is {v}.",
    "For the {o}, the {a} is {v}.",
    "{v} is the {a} of the {o}.",
    "The {o} has {v} as its {a}.",
)
_TITLES = ("Notes", "Minutes of the meeting", "Handbook", "Report", "Letter", "Guide for new staff")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclasses.dataclass(frozen=True)
class Segment:
    """A prompt of one chunk.

    Attributes:
        ids: (length,).
        context: (length,), bool: which tokens are between prefix and suffix.
        evidence: (length,), bool: which tokens state the answer; none where it was left out.
    """

    ids: Tensor
    context: Tensor
    evidence: Tensor


def own_text(random: Random) -> str:
    """The sentences of the demo's documents in a new order: text for those who have none at hand."""
    files = sorted((Path(__file__).parents[1] / "demo" / "documents").glob("*.md"))
    text = " ".join(path.read_text(encoding="utf-8") for path in files)
    sentences = [" ".join(sentence.split()) for sentence in _SENTENCE_END.split(text)]
    return " ".join(random.sample(sentences, len(sentences)))


def draw_segments(
    model: Measurable, ids: Sequence[int], length: int, count: int, *, needles: bool = False, seed: int = 0
) -> list[Segment]:
    """Prompts of `length` tokens in the model's own format, about stretches of the text `ids`.

    Args:
        needles: state the answer once in each, at any depth; otherwise the text does not hold it.

    Raises:
        CalibrationError: the prompt around the text leaves no room for it.
    """
    random = Random(seed)
    tokenizer = model.require_tokenizer("make prompts")
    return [_segment(model, tokenizer, random, ids, length, needles) for _ in range(count)]


def _segment(
    model: Measurable, tokenizer: Any, random: Random, ids: Sequence[int], length: int, needle: bool
) -> Segment:
    thing = f"{random.choice(_KINDS)} {random.choice(_THINGS)}"
    words = {"a": random.choice(_ATTRIBUTES), "o": thing, "v": str(random.randrange(10000, 100000))}
    statement = _capital(random.choice(_STATEMENTS).format(**words)) if needle else ""
    stretch = _stretch(random, ids, length)
    cut = random.randrange(int(0.7 * length)) if needle else 0
    parts = [tokenizer.decode(part).strip() for part in (stretch[:cut], stretch[cut:])]
    documents = _documents(random, [parts[0], statement, parts[1]])
    prompt = model.build_prompt(_capital(random.choice(_QUESTIONS).format(**words)), documents)
    return _cut(prompt, length, statement)


def _stretch(random: Random, ids: Sequence[int], length: int) -> list[int]:
    """`length` tokens from anywhere on, beginning again where the text ends."""
    start = random.randrange(len(ids))
    return list(itertools.islice(itertools.cycle(ids), start, start + length))


def _documents(random: Random, parts: list[str]) -> list[dict[str, str]]:
    """The parts as one document, or each as one."""
    texts = [text for text in parts if text] if random.random() < 0.3 else [" ".join(filter(None, parts))]
    return [{"title": random.choice(_TITLES), "text": text} for text in texts]


def _cut(prompt: Prompt, length: int, statement: str) -> Segment:
    """The prompt with its context cut to fill `length` tokens."""
    affix = len(prompt.prefix_ids) + len(prompt.suffix_ids)
    room = length - affix
    if room < 1:
        raise CalibrationError(
            f"a prompt of {length} tokens has no room for text beside {affix} of prefix and suffix: raise segment_len"
        )
    context = prompt.context_ids[:room]
    ids = torch.cat([prompt.prefix_ids, context, prompt.suffix_ids])
    inside, evidence = torch.zeros(2, len(ids), dtype=torch.bool)
    inside[len(prompt.prefix_ids) : len(ids) - len(prompt.suffix_ids)] = True
    evidence[inside] = _states(prompt, statement)[:room]
    return Segment(ids, inside, evidence)


def _states(prompt: Prompt, statement: str) -> Tensor:
    """(context tokens,), which of them are part of the statement."""
    number, start, end = prompt.origins.unbind(1)
    found = torch.zeros(len(number), dtype=torch.bool)
    for i, document in enumerate(prompt.documents):
        at = document.text.find(statement) if statement else -1
        if at >= 0:
            found |= (number == i) & (end > at) & (start < at + len(statement))
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
