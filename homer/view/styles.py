"""The shades of drawn answers: what came further up the tree is nearer to what was kept."""

from __future__ import annotations

from collections.abc import Sequence

Colour = tuple[int, int, int]

# Of what came through one level, through half of them, and through all but one, as red, green and blue: from blue by
# green to yellow, so that neighbours differ in colour where many levels leave little difference in strength. Each
# bears the page's text.
LIGHT = ((190, 212, 252), (158, 226, 166), (255, 232, 96))
DARK = ((36, 62, 124), (16, 96, 60), (134, 92, 0))


def shade_rules(levels: int) -> tuple[list[str], list[str]]:
    """The style sheet's rules for a tree of so many levels, on light and on dark."""
    names = [f"l{level}" for level in range(1, levels)]
    light, dark = ([*map(_rule, names, shades(levels, stops))] for stops in (LIGHT, DARK))
    return light, dark


def shade_class(survived: int, levels: int) -> str:
    """The class of what came through so many levels; empty for what the leaves dropped."""
    return "all" if survived == levels else f"l{survived}" if survived else ""


def shades(levels: int, stops: Sequence[Colour]) -> list[Colour]:
    """The colours of levels 1 to levels - 1, in even steps along the stops."""
    steps = [(len(stops) - 1) * level / max(1, levels - 2) for level in range(levels - 1)]
    return [_between(stops, step) for step in steps]


def _between(stops: Sequence[Colour], step: float) -> Colour:
    first = min(int(step), len(stops) - 2)
    red, green, blue = (
        round(a + (b - a) * (step - first)) for a, b in zip(stops[first], stops[first + 1], strict=True)
    )
    return red, green, blue


def _rule(name: str, colour: Colour) -> str:
    shade = "rgb({} {} {})".format(*colour)
    return f".homer-answer .{name} {{ background: {shade}; fill: {shade}; }}"
