"""An answer as HTML: what the templates beside this file are filled with."""

from __future__ import annotations

import functools
import hashlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from homer.view.sources import Source, Usage
from homer.view.styles import shade_class, shade_rules
from homer.view.trace import Trace, TracedDocument
from homer.view.tree import lay_out_tree, name_levels

_OPEN_CHARACTERS = 60_000  # beyond this, only the documents that were looked at most are open at first


def page(
    text: str,
    question: str,
    finish_reason: str,
    sources: Sequence[Source],
    usage: Usage,
    trace: Trace | None,
    *,
    whole: bool = False,
) -> str:
    """The drawing of an answer.

    Args:
        whole: a file of its own; otherwise a part, for notebooks.
    """
    light, dark = shade_rules(trace.levels if trace else 1)
    names = name_levels(trace.plan) if trace else ["dropped", "kept"]
    return (
        _templates()
        .get_template("answer.html.j2")
        .render(
            whole=whole,
            light=light,
            dark=dark,
            text=text,
            question=question,
            anchor=_anchor(question, text, usage),
            trace=trace,
            facts=list(_facts(usage, len(sources), finish_reason, trace)),
            legend=list(_legend(trace, names)) if trace and trace.plan.prunes else [],
            sources=[_row(source, trace, names) for source in sources],
            tree=draw_tree(trace) if trace else None,
            documents=list(_documents(trace, [source.index for source in sources[:3]])) if trace else [],
        )
    )


def draw_tree(trace: Trace) -> Markup:
    """An `<svg>` of the chunks and of the documents that they were cut from."""
    return Markup(_templates().get_template("tree.svg.j2").render(tree=lay_out_tree(trace)))


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, which can display HTML."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def draw(fragment: str) -> None:
    """Display HTML in the notebook that runs this."""
    display: Any = importlib.import_module("IPython.display")
    display.display(display.HTML(fragment))


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.PackageLoader("homer.view", ""), autoescape=True)


def _facts(usage: Usage, documents: int, finish_reason: str, trace: Trace | None) -> Iterator[tuple[str, str]]:
    yield "Tokens read", f"{usage.input_tokens:,}"
    yield "Tokens kept", f"{usage.kept_tokens:,} ({usage.kept_tokens / max(1, usage.input_tokens):.1%})"
    yield "Documents", f"{documents:,}"
    if trace is not None:
        yield "Chunks", f"{len(trace.plan.spans):,}"
    yield "Tokens answered", f"{usage.output_tokens:,}, {finish_reason}"


def _legend(trace: Trace, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Shades and what they mean; levels without layers of their own drop nothing, and are left out."""
    for survived, name in enumerate(names):
        if survived == trace.levels or any(document.survived[survived] for document in trace.documents):
            yield shade_class(survived, trace.levels), name


def _row(source: Source, trace: Trace | None, names: Sequence[str]) -> dict[str, Any]:
    """A line of the table."""
    counts = (source.tokens - source.kept, source.kept) if trace is None else trace.documents[source.index].survived
    return {
        "number": source.index + 1,
        "title": source.title or f"Document {source.index + 1}",
        "bar": _bar(counts, names),
        "kept": f"{source.kept:,}",
        "tokens": f"{source.tokens:,}",
        "width": f"{min(1.0, source.relevance):.1%}",
        "attention": f"{source.relevance:.1%}",
    }


def _bar(counts: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """A document's tokens by how far they came, furthest first."""
    shown = [(survived, n) for survived, n in reversed(list(enumerate(counts))) if n]
    label = ", ".join(f"{n:,} tokens {names[survived]}" for survived, n in shown) or "no tokens"
    parts = [{"shade": shade_class(level, len(names) - 1), "share": f"{n / sum(counts):.2%}"} for level, n in shown]
    return {"label": label, "shown": parts}


def _documents(trace: Trace, first: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Every document's text, in parts of one shade each."""
    long = sum(len(document.text) for document in trace.documents) > _OPEN_CHARACTERS
    for index, document in enumerate(trace.documents):
        yield {
            "number": index + 1,
            "title": document.title or f"Document {index + 1}",
            "open": not long or index in first,
            "kept": f"{document.kept:,}",
            "tokens": f"{document.tokens:,}",
            "parts": list(_shaded(document, trace.levels)),
        }


def _shaded(document: TracedDocument, levels: int) -> Iterator[tuple[str, str]]:
    for start, end, survived in document.spans:
        yield shade_class(survived, levels), document.text[start:end]


def _anchor(question: str, text: str, usage: Usage) -> str:
    """What begins ids that no other answer in the same notebook has."""
    digest = hashlib.sha256(f"{question}\0{text}\0{usage}".encode(errors="replace"))
    return f"homer-{digest.hexdigest()[:8]}"
