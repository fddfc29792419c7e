"""Answer: what a model said, and what it had left of every document when it said so."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from homer.errors import InputError
from homer.page import draw, in_notebook, page
from homer.prompt import Document, Prompt
from homer.trace import Trace, trace_documents

if TYPE_CHECKING:
    from homer.cache import CompactCache
    from homer.streaming import Generation

_BLANK_LINES = re.compile(r"\n[ \t]*\n")


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
class Answer:
    """What the model said.

    Attributes:
        text: the answer.
        sources: one for each document, most relevant first.
        usage: token counts.
        finish_reason: "stop", or "length" where the answer was cut at max_new_tokens.
        question: what was asked, where that is known.
        trace: the documents and how far every part of them came up the tree; what `show` draws. None where
            the compact cache came from a file of a version that did not note it.
    """

    text: str
    sources: tuple[Source, ...]
    usage: Usage
    finish_reason: str
    question: str = ""
    trace: Trace | None = dataclasses.field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; `from_dict` reads it, and so does `show`."""
        plain: dict[str, Any] = _lists(dataclasses.asdict(self))
        return plain

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Answer:
        """The answer that `to_dict` wrote.

        Raises:
            InputError: something else.
        """
        try:
            values: dict[str, Any] = _tuples(dict(facts))
            values["sources"] = tuple(_read_source(source) for source in values["sources"])
            values["usage"] = Usage(**values["usage"])
            values["trace"] = None if values.get("trace") is None else Trace.from_dict(values["trace"])
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"this is no answer that Answer.to_dict wrote ({error}): give an Answer, or its to_dict()"
            ) from None

    def show(self, path: str | os.PathLike[str] | None = None) -> Path | None:
        """Draw the documents with what survived, survival by document, and the tree.

        Args:
            path: write one HTML file there, which needs nothing else. None: display in a notebook, and
                elsewhere write a new file in the folder for temporary files.

        Returns:
            The file written, or None in a notebook.

        Raises:
            InputError: a path in a folder that is not there.
        """
        if path is None and in_notebook():
            draw(self._repr_html_())
            return None
        if path is None:
            handle, path = tempfile.mkstemp(".html", "homer-")
            os.close(handle)
        path = Path(path)
        if not path.parent.is_dir():
            raise InputError(f"no folder {path.parent} to write {path.name} to: make it first")
        path.write_text(page(self, whole=True), encoding="utf-8", errors="xmlcharrefreplace")
        return path

    def _repr_html_(self) -> str:
        """The drawing as notebooks show it."""
        return page(self)


def show(answer: Answer | Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> Path | None:
    """Draw an answer, or what its `to_dict` gave: see `Answer.show`.

    Raises:
        InputError: neither of the two, or a path in a folder that is not there.
    """
    return (answer if isinstance(answer, Answer) else Answer.from_dict(answer)).show(path)


def make_answer(prompt: Prompt, cache: CompactCache, generation: Generation) -> Answer:
    """The answer that a generation from the cache of a prompt gives."""
    return Answer(
        text=(generation.text or "").strip(),
        sources=trace_sources(prompt, cache),
        usage=Usage(cache.input_tokens, len(cache), len(generation.token_ids), cache.cached_tokens),
        finish_reason=generation.finish_reason,
        question=prompt.question,
        trace=trace_documents(prompt, cache),
    )


def trace_sources(prompt: Prompt, cache: CompactCache) -> tuple[Source, ...]:
    """What of each document of a prompt survived in a cache, most relevant document first."""
    context = slice(cache.prefix_len, len(cache) - cache.suffix_len)
    places = cache.kept_tokens[context].cpu() - cache.prefix_len
    relevance = torch.zeros(len(prompt.context_ids)).index_put_((places,), cache.relevance[context].cpu().float())
    kept = torch.zeros(len(prompt.context_ids), dtype=torch.bool).index_fill_(0, places, True)
    sources = [
        _source(index, document, *(t[prompt.origins[:, 0] == index] for t in (prompt.origins[:, 1:], kept, relevance)))
        for index, document in enumerate(prompt.documents)
    ]
    return tuple(sorted(sources, key=lambda source: -source.relevance))


def _source(index: int, document: Document, spans: Tensor, kept: Tensor, relevance: Tensor) -> Source:
    body = spans[:, 1] > spans[:, 0]
    spans, kept, relevance = spans[body], kept[body], relevance[body]
    passages = [_passage(document, a, b, spans, kept, relevance) for a, b in paragraphs(document.text)]
    survived = sorted((p for p in passages if p.kept), key=lambda p: -p.relevance)
    return Source(index, document.title, len(spans), int(kept.sum()), float(relevance.sum()), tuple(survived))


def _passage(document: Document, start: int, end: int, spans: Tensor, kept: Tensor, relevance: Tensor) -> Passage:
    inside = (spans[:, 1] > start) & (spans[:, 0] < end)
    return Passage(
        start,
        end,
        document.text[start:end],
        int(inside.sum()),
        int((kept & inside).sum()),
        float(relevance[inside].sum()),
        _stretches(spans[kept & inside], start, end),
    )


def paragraphs(text: str) -> list[tuple[int, int]]:
    """(start, end) of the paragraphs of a text: parts between blank lines, or lines where it has none."""
    border = _BLANK_LINES if _BLANK_LINES.search(text.strip()) else re.compile("\n")
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


def _read_source(facts: dict[str, Any]) -> Source:
    return Source(**facts | {"passages": tuple(Passage(**passage) for passage in facts["passages"])})


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lists(item) for name, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple | list) else value


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, tuple | list) else value
