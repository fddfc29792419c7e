"""An answer as HTML that stands by itself: no scripts, nothing from outside, every text escaped."""

from __future__ import annotations

import hashlib
import html
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from homer.view.styles import shade_class, sheet
from homer.view.trace import Trace, TracedDocument
from homer.view.tree import draw_tree, name_levels

if TYPE_CHECKING:
    from homer.generation.answer import Answer
    from homer.view.sources import Source

_OPEN_CHARACTERS = 60_000  # beyond this, only the documents that were looked at most are open at first
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(answer: Answer, *, whole: bool = False) -> str:
    """The drawing of an answer.

    Args:
        whole: a file of its own; otherwise a part, for notebooks.
    """
    levels = answer.trace.levels if answer.trace else 1
    style = f"<style>{sheet(levels, whole=whole)}</style>"
    tag = "main" if whole else "section"
    body = f'<{tag} class="homer-answer" aria-label="Answer and its sources">{"".join(_body(answer))}</{tag}>'
    if not whole:
        return style + body
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(answer.question or answer.text)}</title>{style}</head><body>{body}</body></html>\n"
    )


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel, which can display HTML."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def draw(fragment: str) -> None:
    """Display HTML in the notebook that runs this."""
    display: Any = importlib.import_module("IPython.display")
    display.display(display.HTML(fragment))


def _body(answer: Answer) -> Iterator[str]:
    yield f'<p class="question" dir="auto">{html.escape(answer.question or "Answer")}</p>'
    yield f'<h2 dir="auto">{html.escape(answer.text) or "(an empty answer)"}</h2>'
    yield from _facts(answer)
    if answer.trace is not None and answer.trace.plan.prunes:
        yield from _legend(answer.trace)
    yield from _table(answer)
    if answer.trace is None:
        yield '<p class="note">How far the parts of the documents came was not recorded.</p>'
        return
    yield "<h3>The tree</h3>"
    yield '<p class="note">Every box is a chunk, as wide as the part of the context it stands for, and filled by the '
    yield "share of its tokens that it kept. Chunks run their layers, drop their least significant tokens, and merge "
    yield "in pairs upwards.</p>"
    yield f'<div class="scroll" tabindex="0" role="group" aria-label="The tree">{draw_tree(answer.trace)}</div>'
    yield from _documents(answer, answer.trace)


def _facts(answer: Answer) -> Iterator[str]:
    usage = answer.usage
    facts = [
        ("Tokens read", f"{usage.input_tokens:,}"),
        ("Tokens kept", f"{usage.kept_tokens:,} ({usage.kept_tokens / max(1, usage.input_tokens):.1%})"),
        ("Documents", f"{len(answer.sources):,}"),
    ]
    if answer.trace is not None:
        facts.append(("Chunks", f"{len(answer.trace.plan.spans):,}"))
    facts.append(("Tokens answered", f"{usage.output_tokens:,}, {answer.finish_reason}"))
    yield '<dl class="facts">'
    yield from (f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts)
    yield "</dl>"


def _legend(trace: Trace) -> Iterator[str]:
    yield '<ul class="legend" aria-label="What the shades mean">'
    for survived, name in enumerate(name_levels(trace.plan)):
        if _happens(trace, survived):
            yield f'<li><i class="{shade_class(survived, trace.levels) or "dropped"}"></i>{name}</li>'
    yield "</ul>"


def _happens(trace: Trace, survived: int) -> bool:
    """Whether any token came just so far: levels without layers of their own drop none."""
    return survived == trace.levels or any(document.survived[survived] for document in trace.documents)


def _table(answer: Answer) -> Iterator[str]:
    yield "<h3>What survived</h3>"
    yield '<p class="note">The documents the model looked at most come first. Attention is the share of its last look '
    yield "at the whole prompt, just before the answer; the question and the control tokens take the rest.</p>"
    yield '<div class="scroll" tabindex="0" role="group" aria-label="Survival by document"><table><thead><tr>'
    yield '<th scope="col" aria-label="Number">#</th><th scope="col">Document</th><th scope="col">Survival</th>'
    yield '<th scope="col" class="number">Tokens kept</th><th scope="col" class="number">Attention</th></tr></thead>'
    yield "<tbody>"
    names, anchor = ["dropped", "kept"] if answer.trace is None else name_levels(answer.trace.plan), _anchor(answer)
    for source in answer.sources:
        yield from _table_row(answer.trace, source, names, anchor)
    yield "</tbody></table></div>"


def _table_row(trace: Trace | None, source: Source, names: Sequence[str], anchor: str) -> Iterator[str]:
    name = f"<bdi>{html.escape(_title(source.title, source.index))}</bdi>"
    if trace is not None:
        name = f'<a href="#{anchor}-{source.index}">{name}</a>'
    yield f'<tr><td class="rank">{source.index + 1}</td><th scope="row">{name}</th>'
    yield f'<td class="wide">{_bar(trace, source, names)}</td>'
    yield f'<td class="number kept">{source.kept:,} of {source.tokens:,}<span class="short"> tokens kept</span></td>'
    yield '<td class="number attention"><span class="short">attention </span>'
    yield f'<span class="share" aria-hidden="true"><i style="width:{min(1.0, source.relevance):.1%}"></i></span>'
    yield f'<span class="percent">{source.relevance:.1%}</span></td></tr>'


def _bar(trace: Trace | None, source: Source, names: Sequence[str]) -> str:
    """Its tokens by how far they came, furthest first."""
    counts = (source.tokens - source.kept, source.kept) if trace is None else trace.documents[source.index].survived
    levels, total = len(names) - 1, sum(counts)
    shown = [(survived, n) for survived, n in reversed(list(enumerate(counts))) if n]
    label = ", ".join(f"{n:,} tokens {names[survived]}" for survived, n in shown) or "no tokens"
    parts = "".join(
        f'<i class="{shade_class(survived, levels) or "dropped"}" style="width:{n / total:.2%}"></i>'
        for survived, n in shown
    )
    return f'<div class="bar" role="img" aria-label="{label}" title="{label}">{parts}</div>'


def _documents(answer: Answer, trace: Trace) -> Iterator[str]:
    yield "<h3>The documents</h3>"
    yield '<p class="note">Text without a colour was dropped at once, blue and green later, yellow last; marked and '
    yield "underlined is what the model still had when it answered.</p>"
    long = sum(len(document.text) for document in trace.documents) > _OPEN_CHARACTERS
    first, anchor = {source.index for source in answer.sources[:3]}, _anchor(answer)
    for index, document in enumerate(trace.documents):
        state = "" if long and index not in first else " open"
        yield f'<details id="{anchor}-{index}"{state}><summary>'
        yield f'<span class="rank">{index + 1}</span><bdi>{html.escape(_title(document.title, index))}</bdi>'
        yield f'<span class="kept">{document.kept:,} of {document.tokens:,} tokens kept</span></summary>'
        yield f'<div class="text" dir="auto">{"".join(_shaded(document, trace.levels))}</div></details>'


def _shaded(document: TracedDocument, levels: int) -> Iterator[str]:
    for start, end, survived in document.spans:
        text = html.escape(document.text[start:end])
        if survived == levels:
            yield f"<mark>{text}</mark>"
        else:
            yield f'<span class="{shade_class(survived, levels)}">{text}</span>' if survived else text


def _title(title: str | None, index: int) -> str:
    return title or f"Document {index + 1}"


def _anchor(answer: Answer) -> str:
    """What begins ids that no other answer in the same notebook has."""
    digest = hashlib.sha256(f"{answer.question}\0{answer.text}\0{answer.usage}".encode(errors="replace"))
    return f"homer-{digest.hexdigest()[:8]}"
