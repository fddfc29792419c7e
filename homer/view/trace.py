"""Trace: how far every stretch of every document came up the tree, so that an answer can be drawn."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor

from homer.backends.entries import Entries
from homer.base.buffers import longs
from homer.merging.cache import CompactCache
from homer.plan.schedule import MergePlan
from homer.text.prompt import Prompt


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
    """The documents in the order they were given, and how they were compressed.

    Attributes:
        significance: the name of what decided which tokens survive.
        layers_warmup: layers that ran before any merging.
        heads: (layer, head) of those through which the question was looked from; none for other significances.
    """

    documents: tuple[TracedDocument, ...]
    plan: MergePlan
    significance: str = ""
    layers_warmup: int = 0
    heads: tuple[tuple[int, int], ...] = ()

    @property
    def levels(self) -> int:
        """Levels of the tree, leaves and root included: what a token that survived came through."""
        return self.plan.height + 1

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Trace:
        """The trace whose `dataclasses.asdict` this is, with tuples where that has tuples."""
        documents = tuple(TracedDocument(**document) for document in facts["documents"])
        rest = {name: value for name, value in facts.items() if name not in ("documents", "plan")}
        return cls(documents, MergePlan(**facts["plan"]), **rest)


@dataclasses.dataclass(frozen=True)
class Traceable:
    """What a trace is made of, so that it can wait until somebody asks for it."""

    prompt: Prompt
    cache: CompactCache

    @classmethod
    def of(cls, prompt: Prompt, cache: CompactCache) -> Traceable | None:
        """Of a prompt and its cache, whose states need not stay for it; None where there is nothing to trace."""
        if cache.survived is None:
            return None
        none, layers = torch.zeros(0), len(cache.entries)
        left: dict[str, Any] = dict.fromkeys(("position_ids", "kept_tokens", "token_ids", "relevance", "logits"), none)
        left |= {"entries": Entries((none,) * layers, (none,) * layers), "survived": cache.survived.cpu()}
        return cls(prompt, dataclasses.replace(cache, **left))

    def trace(self) -> Trace | None:
        """How far every document came."""
        return trace_documents(self.prompt, self.cache)


def trace_documents(prompt: Prompt, cache: CompactCache) -> Trace | None:
    """How far every document of a prompt came; None where the cache was saved before this was noted."""
    if cache.survived is None:
        return None
    survived = cache.survived[cache.prefix_len : cache.input_tokens - cache.suffix_len].cpu().long()
    plan = cache.plan
    numbers, spans = prompt.origins[:, 0], prompt.origins[:, 1:]
    body = spans[:, 1] > spans[:, 0]
    lengths = longs(len(document.text) for document in prompt.documents)
    stretches = _stretches(lengths, numbers[body], spans[body], survived[body])
    size = plan.height + 2
    counts = torch.bincount(numbers[body] * size + survived[body], minlength=len(lengths) * size).view(-1, size)
    first = torch.zeros_like(lengths).scatter_reduce_(
        0, numbers, torch.arange(len(numbers)), "amin", include_self=False
    )
    tokens = torch.bincount(numbers, minlength=len(lengths))
    given = [document.title for document in prompt.documents], [document.text for document in prompt.documents]
    columns = *given, first.tolist(), tokens.tolist(), zip(*counts.t().tolist(), strict=True), stretches
    documents = tuple(map(TracedDocument, *columns))
    settings = cache.config.to_dict()
    return Trace(documents, plan, settings["significance"], settings["layers_warmup"] or 0, cache.heads)


def _stretches(
    lengths: Tensor, numbers: Tensor, spans: Tensor, survived: Tensor
) -> list[tuple[tuple[int, int, int], ...]]:
    """A partition of every document into (start, end, levels) of stretches that came equally far.

    Characters that no token covers, such as spaces of some tokenizers, go with the ones before them.

    Args:
        lengths: (documents,), characters of each.
        numbers, spans, survived: (tokens,), (tokens, 2), (tokens,): the document that each token is of, its
            characters, and the levels it came through.
    """
    ends = lengths.cumsum(0)
    starts = ends - lengths  # of the documents, in all their characters together
    cuts, spans, starts_of, ends_of = _parts(spans + starts[numbers, None], starts, ends)
    widths = spans[:, 1] - spans[:, 0]
    within = torch.arange(int(widths.sum())) - (widths.cumsum(0) - widths).repeat_interleave(widths)
    parts = spans[:, 0].repeat_interleave(widths) + within
    levels = torch.full((len(cuts) - 1,), -1).scatter_reduce_(0, parts, survived.repeat_interleave(widths), "amax")
    levels = levels[_nearest_covered(levels >= 0, starts_of, ends_of - starts_of)].clamp(min=0)
    new = torch.cat([levels.new_ones(1), levels.diff()])[: len(levels)] != 0
    new[starts_of[lengths > 0]] = True
    edges = torch.cat([new.nonzero().flatten(), torch.tensor([len(levels)])])
    borders = torch.searchsorted(edges, torch.cat([starts_of, ends_of[-1:]]))
    shifts = starts.repeat_interleave(borders.diff())
    begins, stops = cuts[edges[:-1]] - shifts, cuts[edges[1:]] - shifts
    rows = list(zip(begins.tolist(), stops.tolist(), levels[edges[:-1]].tolist(), strict=True))
    return [tuple(rows[a:b]) for a, b in itertools.pairwise(borders.tolist())]


def _parts(spans: Tensor, starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All characters in the parts of which no border divides any, far fewer than they are themselves.

    Args:
        spans: (tokens, 2); starts, ends: (documents,); all in characters of all documents together.

    Returns:
        (parts + 1,), the borders in characters; and spans, starts and ends, in parts.
    """
    cut = torch.zeros(int(ends[-1]) + 1, dtype=torch.bool)
    for borders in (spans.flatten(), starts, ends):
        cut[borders] = True
    parts = cut.cumsum(0) - 1
    return cut.nonzero().flatten(), parts[spans], parts[starts], parts[ends]


def _nearest_covered(covered: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Of every part, the last covered one up to it in its document; the first one where none is before it."""
    index = torch.arange(len(covered))
    found = torch.where(covered, index, len(covered))
    following = found.flip(0).cummin(0).values.flip(0)  # the next covered one, of whatever document
    owners = torch.arange(len(lengths)).repeat_interleave(lengths)
    first = following[starts[owners]].minimum((starts + lengths - 1)[owners])
    return torch.where(covered, index, first).cummax(0).values
