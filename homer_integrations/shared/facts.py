"""What an answer tells a pipeline of itself: little enough to ride along in every message, and nothing of the texts."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from homer import Answer, Passage, Source

# Bytes of the sources as JSON: what 14 documents need, a floor for a few, and a ceiling for any number.
_BYTES_PER_SOURCE, _LEAST_BYTES, _MOST_BYTES = 240, 2_000, 9_000
_LONGEST_TITLE = 100


def sources_of(answer: Answer, every: bool = False) -> dict[str, Any]:
    """The sources of an answer, most relevant first, with the spans of their text that survived; plain JSON values.

    They take 240 bytes a document, but 2 kB at least and 9 kB at most: beyond that, spans of the least relevant
    passages stay out, and then the least relevant documents. `left_out` counts them, and is there where any is.

    Args:
        every: no document stays out, however many there are.
    """
    budget = min(_MOST_BYTES, max(_LEAST_BYTES, _BYTES_PER_SOURCE * len(answer.sources)))
    facts: list[dict[str, Any]] = []
    for source in answer.sources:
        entry = _entry(source)
        budget -= _size(entry)
        if budget < 0 and not every:
            break
        facts.append(entry)
    left = _add_spans(facts, answer.sources, max(0, budget))
    left_out = {"sources": len(answer.sources) - len(facts), "spans": left}
    return {"sources": facts} | ({"left_out": left_out} if any(left_out.values()) else {})


def facts_of(answer: Answer, trace: bool, cited: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """An answer as LlamaIndex's responses keep it; with the trace, all that `homer.show` draws.

    Args:
        cited: what `citations_of` tells; None where nobody asked.
    """
    if trace:
        return answer.to_dict()
    usage = dataclasses.asdict(answer.usage)
    facts = {"text": answer.text, "finish_reason": answer.finish_reason, "usage": usage}
    return facts | sources_of(answer, every=True) | ({} if cited is None else {"citations": cited})


def shortened(facts: dict[str, Any]) -> dict[str, Any]:
    """The same with the most relevant sources alone, where all would take more than 9 kB; whole where there is a trace.

    What was left out is counted as in `sources_of`.
    """
    if "trace" in facts:
        return facts
    budget, kept = _MOST_BYTES, []
    for entry in facts["sources"]:
        budget -= _size(entry)
        if budget < 0:
            break
        kept.append(entry)
    left = facts.get("left_out", {"sources": 0, "spans": 0})
    missing = facts["sources"][len(kept) :]
    counts = {
        "sources": left["sources"] + len(missing),
        "spans": left["spans"] + sum(len(entry["spans"]) for entry in missing),
    }
    return facts | {"sources": kept} | ({"left_out": counts} if any(counts.values()) else {})


def _entry(source: Source) -> dict[str, Any]:
    title = source.title
    if title is not None and len(title) > _LONGEST_TITLE:
        title = f"{title[: _LONGEST_TITLE - 1]}\u2026"
    return {
        "index": source.index, "title": title, "tokens": source.tokens, "kept": source.kept,
        "relevance": source.relevance, "spans": [],
    }  # fmt: skip


def _add_spans(facts: list[dict[str, Any]], sources: tuple[Source, ...], budget: int) -> int:
    """Fill in the spans of the most relevant passages; gives the number of those that found no room."""
    spans = {source.index: entry["spans"] for source, entry in zip(sources, facts, strict=False)}
    every = [(source.index, passage) for source in sources for passage in source.passages]
    left = 0
    for index, passage in sorted(every, key=lambda found: -found[1].relevance):
        budget, missed = _add(spans.get(index), passage, budget)
        left += missed
    for found in spans.values():
        found.sort()
    return left


def _add(spans: list[list[int]] | None, passage: Passage, budget: int) -> tuple[int, int]:
    """What is left of the budget, and the number of spans that found no room."""
    for number, (start, end) in enumerate(passage.spans):
        budget -= _size([start, end])
        if spans is None or budget < 0:
            return max(0, budget), len(passage.spans) - number
        spans.append([start, end])
    return budget, 0


def _size(value: Any) -> int:
    """Bytes of a value and what parts it from the next."""
    return len(json.dumps(value)) + 2
