"""Sources: what each document of a prompt had left when the model answered, down to its characters."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from homer.base.buffers import longs
from homer.merging.cache import CompactCache
from homer.text.prompt import Prompt

_BREAKS = "\n\r\x85\u2028\u2029"
_LINE_BREAK = rf"[{_BREAKS}](?:(?<=\r)\n)?+"  # taken whole: a CR LF is never two breaks
_LINE = re.compile(f"[^{_BREAKS}]+")
_BLANK_LINES = re.compile(rf"{_LINE_BREAK}[^\S{_BREAKS}]*{_LINE_BREAK}")
_RELEVANCE = operator.attrgetter("relevance")


@dataclasses.dataclass(frozen=True)
class Usage:
    """Token counts: of the whole prompt before compression, of the compact cache, and of the answer.

    `cached_tokens` are those of the prompt whose states had been kept from before, `reasoning_tokens` those of the
    answer that the model thought before it.
    """

    input_tokens: int
    kept_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Passage:
    """A paragraph of a document of which something survived.

    Attributes:
        start, end: characters of the document's text.
        text: those characters.
        tokens, kept: tokens before and after compression.
        relevance: share of the model's last look at the whole prompt that fell on this passage.
        spans: (start, end) of every stretch of text that survived, in characters of the document's text.
    """

    start: int
    end: int
    text: str
    tokens: int
    kept: int
    relevance: float
    spans: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """What was left of one document.

    Attributes:
        index: its number among the documents given, from 0.
        title: as given.
        tokens, kept: tokens of its text before and after compression.
        relevance: share of the model's last look at the whole prompt that fell on it.
        passages: the paragraphs of which something survived, most relevant first.
    """

    index: int
    title: str | None
    tokens: int
    kept: int
    relevance: float
    passages: tuple[Passage, ...]

    @property
    def share(self) -> float:
        """The share of its tokens that survived."""
        return self.kept / self.tokens if self.tokens else 0.0


def trace_sources(prompt: Prompt, cache: CompactCache) -> tuple[Source, ...]:
    """What of each document of a prompt survived in a cache, most relevant document first."""
    context = slice(cache.prefix_len, len(cache) - cache.suffix_len)
    indices = cache.kept_tokens[context].cpu() - cache.prefix_len
    relevance = cache.relevance[context].cpu().float()
    body = _Body(prompt, indices, relevance)
    titles = [document.title for document in prompt.documents]
    sources = map(Source, itertools.count(), titles, body.tokens, body.survivors, body.shares, body.passages())
    return tuple(sorted(sources, key=_RELEVANCE, reverse=True))


class _Body:
    """The tokens of all documents' texts, in characters of all the texts one after the other.

    Attributes:
        tokens, survivors, shares: of every document, how many tokens it has, how many survived, and their relevance.
    """

    def __init__(self, prompt: Prompt, indices: Tensor, relevance: Tensor) -> None:
        """Of a prompt, with the indices (kept,) in its context of those that survived, and the relevance of each."""
        self._documents, size = prompt.documents, len(prompt.documents)
        kept = torch.zeros(len(prompt.context_ids)).index_put_((indices,), relevance)
        survived = torch.zeros(len(prompt.context_ids), dtype=torch.bool).index_fill_(0, indices, True)
        rows = (prompt.origins[:, 2] > prompt.origins[:, 1]).nonzero().flatten()
        numbers = prompt.origins[rows, 0]
        if bool((numbers.diff() < 0).any()):  # documents that do not stand in their own order
            rows, numbers = (values[numbers.argsort(stable=True)] for values in (rows, numbers))
        ends = longs(len(document.text) for document in self._documents).cumsum(0)
        self._shifts = [0, *ends.tolist()]
        spans = prompt.origins[rows, 1:] + longs(self._shifts)[numbers, None]
        self._first, self._end = (column.contiguous() for column in spans.unbind(1))
        survived, kept = survived[rows], kept[rows].double()
        self._kept = survived.nonzero().flatten()
        owners = numbers[self._kept]
        self.tokens: list[int] = torch.bincount(numbers, minlength=size).tolist()
        self.survivors: list[int] = torch.bincount(owners, minlength=size).tolist()
        self._relevance = kept[self._kept]
        self.shares: list[float] = torch.bincount(owners, self._relevance, minlength=size).tolist()

    def passages(self) -> list[tuple[Passage, ...]]:
        """Of every document, the paragraphs of which something survived, most relevant first."""
        found = [(n, *span) for n, kept in enumerate(self.survivors) if kept for span in paragraphs(self._text(n))]
        if not found:
            return [()] * len(self._documents)
        numbers, starts, stops = longs(itertools.chain.from_iterable(found)).view(-1, 3).unbind(1)
        shifts = longs(self._shifts)[numbers]
        inside = self._tokens_within(starts + shifts, stops + shifts)
        survivors = torch.searchsorted(self._kept, inside)
        chosen = (survivors[1] > survivors[0]).nonzero().flatten()
        first, end = self._first[self._kept].tolist(), self._end[self._kept].tolist()
        relevance = self._relevance.tolist()
        passages: dict[int, list[Passage]] = {}
        ranges = zip(chosen.tolist(), inside[:, chosen].t().tolist(), survivors[:, chosen].t().tolist(), strict=True)
        for index, (a, b), (low, high) in ranges:
            number, start, stop = found[index]
            spans = _stretches(first[low:high], end[low:high], start, stop, self._shifts[number])
            share = math.fsum(relevance[low:high])
            passage = Passage(start, stop, self._text(number)[start:stop], b - a, high - low, share, spans)
            passages.setdefault(number, []).append(passage)
        ordered = {number: tuple(sorted(few, key=_RELEVANCE, reverse=True)) for number, few in passages.items()}
        return [ordered.get(number, ()) for number in range(len(self._documents))]

    def _tokens_within(self, starts: Tensor, stops: Tensor) -> Tensor:
        """(2, n): the first token that shares a character with each stretch, and the one behind the last."""
        first = torch.searchsorted(self._end, starts, right=True)
        return torch.stack([first, torch.searchsorted(self._first, stops)])

    def _text(self, number: int) -> str:
        return self._documents[number].text


def paragraphs(text: str) -> list[tuple[int, int]]:
    """(start, end) of the paragraphs of a text: parts between blank lines, or lines where it has none."""
    if not _BLANK_LINES.search(text.strip()):
        return [match.span() for match in _LINE.finditer(text) if not match[0].isspace()]
    edges = [0, *(edge for match in _BLANK_LINES.finditer(text) for edge in match.span()), len(text)]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if text[a:b].strip()]


def _stretches(
    first: Sequence[int], end: Sequence[int], start: int, stop: int, shift: int
) -> tuple[tuple[int, int], ...]:
    """Neighbouring spans joined, cut at the passage's borders, and counted from the document's start."""
    joined: list[tuple[int, int]] = []
    for a, b in zip(first, end, strict=True):
        a, b = max(a - shift, start), min(b - shift, stop)
        if joined and a <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(b, joined[-1][1])
        else:
            joined.append((a, b))
    return tuple(joined)
