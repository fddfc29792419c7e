"""The tree as boxes: a row a level, root above, as wide as the context that each chunk stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from homer.plan.schedule import MergePlan
from homer.view.styles import shade_class
from homer.view.trace import Trace

_WIDTH, _LABELS, _ROW, _GAP = 1000.0, 230.0, 38.0, 10.0
_NARROWEST, _ROOM_FOR_TEXT = 3.0, 76.0


class Part(NamedTuple):
    """A rectangle of a box."""

    shade: str
    top: float
    height: float


class Box(NamedTuple):
    """A chunk or a document, as wide as its part of the context."""

    title: str
    x: float
    width: float
    parts: tuple[Part, ...]
    text: str
    ink: str
    base: float  # of the text

    @property
    def middle(self) -> float:
        """Where its text stands."""
        return round(self.x + self.width / 2, 1)


class Row(NamedTuple):
    """The boxes of one level, or the documents."""

    name: str
    facts: str
    top: float
    boxes: list[Box]


class Tree(NamedTuple):
    """All that is drawn."""

    label: str
    rows: list[Row]
    width: float
    height: float


def lay_out_tree(trace: Trace) -> Tree:
    """Boxes for the chunks: what each held, what it kept, and the documents it was cut from."""
    plan, edges = trace.plan, _edges(trace.plan)
    levels = enumerate(range(plan.height, -1, -1))
    rows = [_row(plan, level, edges[level], row * (_ROW + _GAP)) for row, level in levels]
    rows.append(_documents(trace, len(rows) * (_ROW + _GAP)))
    return Tree(describe_tree(plan), rows, _WIDTH, len(rows) * (_ROW + _GAP))


def describe_tree(plan: MergePlan) -> str:
    """The same in words, root last."""
    parts = [f"{_name(plan, level)}, {_facts(plan, level)}" for level in range(plan.height + 1)]
    return f"The tree. {'; '.join(parts)}."


def name_levels(plan: MergePlan) -> list[str]:
    """What became of tokens that came through 0, 1, 2 ... levels."""
    return [*(f"dropped at {_short(plan, level)}" for level in range(plan.height + 1)), "kept"]


def _row(plan: MergePlan, level: int, edges: Sequence[tuple[float, float]], top: float) -> Row:
    row = Row(_name(plan, level), _facts(plan, level), top, [])
    fill = shade_class(level + 1, plan.height + 1)
    if min(end - start for start, end in edges) < _NARROWEST:
        held, kept = sum(plan.lengths[level]), sum(plan.targets[level])
        name = f"{len(edges):,} chunks, drawn as one: "
        row.boxes.append(_box(_LABELS, _WIDTH, top, held, kept, fill, name)._replace(text=""))
        return row
    for index, (start, end) in enumerate(edges):
        gap = min(1.0, 0.08 * (end - start))
        held, kept = plan.lengths[level][index], plan.targets[level][index]
        row.boxes.append(_box(start + gap, end - gap, top, held, kept, fill, f"Chunk {index + 1}: "))
    return row


def _box(start: float, end: float, top: float, held: int, kept: int, fill: str, name: str) -> Box:
    """A box for what a chunk holds, filled from below by the share that it keeps."""
    width, empty = end - start, _ROW * (1 - kept / held)
    parts = Part("dropped", top, round(empty, 1)), Part(fill, round(top + empty, 1), round(_ROW - empty, 1))
    text = f"{held:,} \u2192 {kept:,}" if kept < held else f"{held:,}"
    ink = "on-kept" if fill == "all" else "ink"
    title = f"{name}{held:,} tokens held, {kept:,} kept"
    shown = text if width >= _ROOM_FOR_TEXT else ""
    return Box(title, round(start, 1), round(width, 1), parts, shown, ink, top + 24)


def _documents(trace: Trace, top: float) -> Row:
    """The documents in the order in which they stood in the context, below the leaves."""
    row, total = Row("Documents", "where they stood", top, []), max(1, trace.plan.spans[-1][1])
    for number, document in enumerate(trace.documents):
        x, width = _scale(document.context_start, total), _scale(document.context_tokens, total) - _LABELS
        title = f"{document.title or f'Document {number + 1}'}: {document.context_tokens:,} tokens"
        parts = (Part("odd" if number % 2 else "dropped", top, 22),)
        text = str(number + 1) if width > 9 * len(str(number + 1)) + 6 else ""
        row.boxes.append(Box(title, round(x, 1), round(width, 1), parts, text, "ink", top + 15))
    return row


def _edges(plan: MergePlan) -> list[list[tuple[float, float]]]:
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
