"""Trace: how far every stretch of every document came up the tree, so that an answer can be drawn."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from homer.prompt import Document, Prompt
from homer.schedule import MergePlan

if TYPE_CHECKING:
    from homer.cache import CompactCache


@dataclasses.dataclass(frozen=True)
class TracedDocument:
    """One document, and how many levels of the tree its parts came through.

    Attributes:
        title, text: as given.
        context_start, context_tokens: the tokens of the context that it took, its header included.
        survived: tokens of its text by how many levels they came through, from 0 to all: height + 2 numbers.
        spans: (start, end, levels) of every stretch that came equally far; together they cover the text.
            Where tokens share a character, the one that came furthest counts.
    """

    title: str | None
    text: str
    context_start: int
    context_tokens: int
    survived: tuple[int, ...]
    spans: tuple[tuple[int, int, int], ...]

    @property
    def tokens(self) -> int:
        """Tokens of its text."""
        return sum(self.survived)

    @property
    def kept(self) -> int:
        """Tokens of its text that survived the whole tree."""
        return self.survived[-1]


@dataclasses.dataclass(frozen=True)
class Trace:
    """The documents in the order they were given, and the plan of the compression."""

    documents: tuple[TracedDocument, ...]
    plan: MergePlan

    @property
    def levels(self) -> int:
        """Levels of the tree, leaves and root included: what a token that survived came through."""
        return self.plan.height + 1

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Trace:
        """The trace whose `dataclasses.asdict` this is, with tuples where that has tuples."""
        documents = tuple(TracedDocument(**document) for document in facts["documents"])
        return cls(documents, MergePlan(**facts["plan"]))


def trace_documents(prompt: Prompt, cache: CompactCache) -> Trace | None:
    """How far every document of a prompt came; None where the cache was saved before this was noted."""
    if cache.survived is None:
        return None
    survived = cache.survived[cache.prefix_len : cache.input_tokens - cache.suffix_len].cpu().long()
    plan = cache.plan
    documents = []
    for number, document in enumerate(prompt.documents):
        places = (prompt.origins[:, 0] == number).nonzero().flatten()
        documents.append(_trace(document, places, prompt.origins[places, 1:], survived[places], plan.height + 1))
    return Trace(tuple(documents), plan)


def _trace(document: Document, places: Tensor, spans: Tensor, survived: Tensor, levels: int) -> TracedDocument:
    body = spans[:, 1] > spans[:, 0]
    counts = torch.bincount(survived[body], minlength=levels + 1)
    return TracedDocument(
        title=document.title,
        text=document.text,
        context_start=int(places[0]) if len(places) else 0,
        context_tokens=len(places),
        survived=tuple(counts.tolist()),
        spans=_stretches(len(document.text), spans[body], survived[body]),
    )


def _stretches(length: int, spans: Tensor, survived: Tensor) -> tuple[tuple[int, int, int], ...]:
    """(n, 2) character spans and their levels (n,) -> a partition of `length` characters into equal stretches.

    Characters that no token covers, such as spaces of some tokenizers, go with the ones before them.
    """
    if not len(spans):
        return ((0, length, 0),) if length else ()
    widths = spans[:, 1] - spans[:, 0]
    offsets = torch.arange(int(widths.sum())) - (widths.cumsum(0) - widths).repeat_interleave(widths)
    places = spans[:, 0].repeat_interleave(widths) + offsets
    levels = torch.full((length,), -1).scatter_reduce_(0, places, survived.repeat_interleave(widths), "amax")
    covered = torch.where(levels >= 0, torch.arange(length), int(spans[0, 0])).cummax(0).values
    levels = levels[covered]
    inner = (levels.diff() != 0).nonzero().flatten() + 1
    edges = [0, *inner.tolist(), length]
    return tuple((start, end, int(levels[start])) for start, end in itertools.pairwise(edges))
