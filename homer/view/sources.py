"""Sources: what each document of a prompt had left when the model answered, down to its characters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from homer.merging.cache import CompactCache
from homer.text.prompt import Prompt

_LINE_BREAK = "(?>\r\n|[\n\r\x85\u2028\u2029])"  # taken whole: a CR LF is never two breaks
_LINE = re.compile(_LINE_BREAK)
_BLANK_LINES = re.compile(rf"{_LINE_BREAK}[^\S\n\r\x85\u2028\u2029]*{_LINE_BREAK}")


@dataclasses.dataclass(frozen=True)
class Usage:
    """Token counts: of the whole prompt before compression, of the compact cache, and of the answer.

    `cached_tokens` are those of the prompt whose states had been kept from before.
    """

    input_tokens: int
    kept_tokens: int
    output_tokens: int
    cached_tokens: int = 0


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
        index: its place among the documents given.
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
    places = cache.kept_tokens[context].cpu() - cache.prefix_len
    relevance = torch.zeros(len(prompt.context_ids)).index_put_((places,), cache.relevance[context].cpu().float())
    kept = torch.zeros(len(prompt.context_ids), dtype=torch.bool).index_fill_(0, places, True)
    body = prompt.origins[:, 2] > prompt.origins[:, 1]
    numbers, spans, kept, relevance = (t[body] for t in (prompt.origins[:, 0], prompt.origins[:, 1:], kept, relevance))
    size = len(prompt.documents)
    tokens, survivors = (torch.bincount(rows, minlength=size).tolist() for rows in (numbers, numbers[kept]))
    shares = torch.bincount(numbers, relevance.double(), minlength=size).tolist()
    groups = numbers.argsort(stable=True).split(tokens)  # type: ignore[no-untyped-call]
    sources = []
    for index, (document, mine) in enumerate(zip(prompt.documents, groups, strict=True)):
        found = _passages(document.text, spans[mine], kept[mine], relevance[mine]) if survivors[index] else ()
        passages = tuple(sorted(found, key=lambda passage: -passage.relevance))
        sources.append(Source(index, document.title, tokens[index], survivors[index], shares[index], passages))
    return tuple(sorted(sources, key=lambda source: -source.relevance))


def _passages(text: str, spans: Tensor, kept: Tensor, relevance: Tensor) -> Iterator[Passage]:
    """The paragraphs of a text of which something survived; its tokens (n, 2) stand in order."""
    borders = torch.tensor(paragraphs(text))
    first = torch.searchsorted(spans[:, 1].contiguous(), borders[:, 0].contiguous(), right=True)
    end = torch.searchsorted(spans[:, 0].contiguous(), borders[:, 1].contiguous())
    shares, counts = (_sums(values, first, end) for values in (relevance.double(), kept.long()))
    for n in counts.nonzero().flatten().tolist():
        (start, stop), inside = borders[n].tolist(), slice(int(first[n]), int(end[n]))
        yield Passage(
            start,
            stop,
            text[start:stop],
            inside.stop - inside.start,
            int(counts[n]),
            float(shares[n]),
            _stretches(spans[inside][kept[inside]], start, stop),
        )


def _sums(values: Tensor, first: Tensor, end: Tensor) -> Tensor:
    """Sums of values (n,) over the ranges first..end-1 (m,)."""
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    return sums[end] - sums[first]


def paragraphs(text: str) -> list[tuple[int, int]]:
    """(start, end) of the paragraphs of a text: parts between blank lines, or lines where it has none."""
    border = _BLANK_LINES if _BLANK_LINES.search(text.strip()) else _LINE
    edges = [0, *(place for match in border.finditer(text) for place in match.span()), len(text)]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if text[a:b].strip()]


def _stretches(spans: Tensor, start: int, end: int) -> tuple[tuple[int, int], ...]:
    """Neighbouring (n, 2) spans joined, and cut at the passage's borders."""
    joined: list[list[int]] = []
    for a, b in spans.clamp(start, end).tolist():
        if joined and a <= joined[-1][1]:
            joined[-1][1] = max(b, joined[-1][1])
        else:
            joined.append([a, b])
    return tuple((a, b) for a, b in joined)
