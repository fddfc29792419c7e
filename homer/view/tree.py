"""The tree as an SVG: a row a level, root above, as wide as the context that each chunk stands for."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from homer.plan.schedule import MergePlan
from homer.view.styles import shade_class
from homer.view.trace import Trace

_WIDTH, _LABELS, _ROW, _GAP = 1000.0, 230.0, 38.0, 10.0
_NARROWEST, _ROOM_FOR_TEXT = 3.0, 76.0


def draw_tree(trace: Trace) -> str:
    """An `<svg>` of the chunks: what each held, what it kept, and the documents it was cut from."""
    plan = trace.plan
    rows, places = range(plan.height, -1, -1), _places(plan)
    height = (len(rows) + 1) * (_ROW + _GAP)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH:g} {height:g}" role="img" aria-label="{html.escape(describe_tree(plan))}">',
        *("".join(_row(plan, level, places[level], row * (_ROW + _GAP))) for row, level in enumerate(rows)),
        "".join(_documents(trace, len(rows) * (_ROW + _GAP))),
        "</svg>",
    ]
    return "".join(parts)


def describe_tree(plan: MergePlan) -> str:
    """The same in words, root last."""
    parts = [f"{_name(plan, level)}, {_facts(plan, level)}" for level in range(plan.height + 1)]
    return f"The tree. {'; '.join(parts)}."


def name_levels(plan: MergePlan) -> list[str]:
    """What became of tokens that came through 0, 1, 2 ... levels."""
    return [*(f"dropped at {_short(plan, level)}" for level in range(plan.height + 1)), "kept"]


def _row(plan: MergePlan, level: int, places: Sequence[tuple[float, float]], top: float) -> Iterator[str]:
    yield f'<text x="0" y="{top + 15:g}">{html.escape(_name(plan, level))}</text>'
    yield f'<text class="faint" x="0" y="{top + 31:g}">{html.escape(_facts(plan, level))}</text>'
    fill = shade_class(level + 1, plan.height + 1)
    if min(end - start for start, end in places) < _NARROWEST:
        held, kept = sum(plan.lengths[level]), sum(plan.targets[level])
        yield from _node(_LABELS, _WIDTH, top, held, kept, fill, f"{len(places):,} chunks, drawn as one: ")
        return
    for index, (start, end) in enumerate(places):
        gap = min(1.0, 0.08 * (end - start))
        held, kept = plan.lengths[level][index], plan.targets[level][index]
        yield from _node(start + gap, end - gap, top, held, kept, fill, f"Chunk {index + 1}: ")


def _node(start: float, end: float, top: float, held: int, kept: int, fill: str, name: str) -> Iterator[str]:
    """A box for what a chunk holds, filled from below by the share that it keeps."""
    width, empty = end - start, _ROW * (1 - kept / held)
    yield f"<g><title>{name}{held:,} tokens held, {kept:,} kept</title>"
    yield f'<rect class="dropped" x="{start:.1f}" y="{top:.1f}" width="{width:.1f}" height="{empty:.1f}"/>'
    yield f'<rect class="{fill}" x="{start:.1f}" y="{top + empty:.1f}" width="{width:.1f}" '
    yield f'height="{_ROW - empty:.1f}"/>'
    if width >= _ROOM_FOR_TEXT and not name.endswith("one: "):
        text = f"{held:,} \u2192 {kept:,}" if kept < held else f"{held:,}"
        ink = "on-kept" if fill == "all" else "ink"
        yield f'<text class="{ink}" x="{start + width / 2:.1f}" y="{top + 24:.1f}" text-anchor="middle">{text}</text>'
    yield "</g>"


def _documents(trace: Trace, top: float) -> Iterator[str]:
    """The documents in the order in which they stood in the context, below the leaves."""
    yield f'<text x="0" y="{top + 15:g}">Documents</text>'
    yield f'<text class="faint" x="0" y="{top + 31:g}">where they stood</text>'
    total = max(1, trace.plan.spans[-1][1])
    for number, document in enumerate(trace.documents):
        x, width = _scale(document.context_start, total), _scale(document.context_tokens, total) - _LABELS
        title = html.escape(document.title or f"Document {number + 1}")
        yield f"<g><title>{title}: {document.context_tokens:,} tokens</title>"
        yield f'<rect class="{"odd" if number % 2 else "dropped"}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" '
        yield 'height="22"/>'
        if width > 9 * len(str(number + 1)) + 6:
            yield f'<text x="{x + width / 2:.1f}" y="{top + 15:g}" text-anchor="middle">{number + 1}</text>'
        yield "</g>"


def _places(plan: MergePlan) -> list[list[tuple[float, float]]]:
    """Left and right edge of every chunk, by level."""
    total = plan.spans[-1][1]
    rows = [[(_scale(start, total), _scale(end, total)) for start, end in plan.spans]]
    for level in range(1, plan.height + 1):
        families = [plan.children(level, index) for index in range(len(plan.lengths[level]))]
        rows.append([(rows[-1][family[0]][0], rows[-1][family[-1]][1]) for family in families])
    return rows


def _scale(tokens: int, total: int) -> float:
    return _LABELS + (_WIDTH - _LABELS) * tokens / total


def _name(plan: MergePlan, level: int) -> str:
    first, end = plan.layers[level]
    layers = "no layer" if first == end else f"layer {first}" if end == first + 1 else f"layers {first}\u2013{end - 1}"
    name = _short(plan, level)
    return f"{name[4:].capitalize() if name.startswith('the ') else name.capitalize()}, {layers}"


def _short(plan: MergePlan, level: int) -> str:
    if level == plan.height:
        return "the root"
    return "the leaves" if level == 0 else f"level {level}"


def _facts(plan: MergePlan, level: int) -> str:
    held, kept = plan.lengths[level], plan.targets[level]
    tokens = f"{max(held):,} tokens"
    if max(kept) < max(held):
        tokens = f"{max(held):,} \u2192 {max(kept):,} tokens"
    elif kept != held:  # the longest keeps all it has, as the last one often does
        tokens = f"{sum(held):,} \u2192 {sum(kept):,} tokens in all"
    return f"{len(held):,} chunk{'s' if len(held) > 1 else ''}, {tokens}"
