"""The style sheet of drawn answers: light and dark, and nothing outside `.homer-answer` is touched."""

from __future__ import annotations

from collections.abc import Sequence

Colour = tuple[int, int, int]

_SHEET = """
.homer-answer {
  --paper: #ffffff; --card: #f6f7f9; --line: #dfe3e8; --ink: #1c2128; --faint: #5d6672; --track: #e6e9ee;
  --odd: #d3d9e1; --kept: #ffb224; --kept-ink: #1f1300; --kept-line: #9a5b00; --link: #0b5cad;
  box-sizing: border-box; max-width: 68rem; margin: 0 auto; padding: 2rem 1.75rem;
  background: var(--paper); color: var(--ink); color-scheme: light; border-radius: 12px;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
@media (prefers-color-scheme: dark) {
  .homer-answer {
    --paper: #14171c; --card: #1c2027; --line: #323944; --ink: #e8eaed; --faint: #9ba5b3; --track: #2a303a;
    --odd: #3b4451; --kept: #f5a623; --kept-ink: #1f1300; --kept-line: #ffd591; --link: #7db8ff;
    color-scheme: dark;
  }
}
.homer-answer * { box-sizing: border-box; }
.homer-answer h2, .homer-answer h3, .homer-answer p, .homer-answer ul, .homer-answer dl, .homer-answer dd {
  margin: 0; padding: 0; border: 0; color: inherit; background: none; }
.homer-answer a { color: var(--link); text-underline-offset: 3px; }
.homer-answer .question { color: var(--faint); font-size: 1rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.homer-answer h2 { font-size: 1.7rem; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em;
  margin: 0.15rem 0 1.25rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.homer-answer h3 { font-size: 1.05rem; font-weight: 650; margin: 2.5rem 0 0.2rem; }
.homer-answer .note { color: var(--faint); font-size: 0.9rem; max-width: 46rem; margin-bottom: 0.9rem; }
.homer-answer .facts { display: flex; flex-wrap: wrap; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); }
.homer-answer .facts div { flex: 1 1 8rem; padding: 0.7rem 1rem; }
.homer-answer .facts dt { color: var(--faint); font-size: 0.8rem; font-weight: 400; }
.homer-answer .facts dd { font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.homer-answer .legend { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; list-style: none;
  font-size: 0.85rem; color: var(--faint); margin-top: 0.7rem; }
.homer-answer .legend li { display: flex; align-items: center; gap: 0.45rem; margin: 0; }
.homer-answer .legend i { width: 1.4rem; height: 0.8rem; border-radius: 3px; border: 1px solid var(--line); }
.homer-answer .scroll { overflow-x: auto; }
.homer-answer table { width: 100%; min-width: 42rem; border-collapse: collapse; font-size: 0.92rem; margin: 0; }
.homer-answer th, .homer-answer td { text-align: left; padding: 0.42rem 0.75rem 0.42rem 0; border: 0;
  border-bottom: 1px solid var(--line); background: none; vertical-align: middle; color: inherit; }
.homer-answer thead th { color: var(--faint); font-size: 0.8rem; font-weight: 400; white-space: nowrap; }
.homer-answer tbody th { font-weight: 500; max-width: 20rem; overflow-wrap: anywhere; white-space: normal; }
.homer-answer .number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.homer-answer td.wide { width: 42%; min-width: 12rem; }
.homer-answer .bar { display: flex; height: 0.85rem; border-radius: 3px; overflow: hidden; background: var(--paper); }
.homer-answer .bar i { height: 100%; }
.homer-answer .rank { color: var(--faint); font-weight: 400;
  font-variant-numeric: tabular-nums; }
.homer-answer summary .rank { margin-right: 0.8em; }
.homer-answer .short { display: none; }
.homer-answer .percent { display: inline-block; min-width: 3.4rem; }
.homer-answer .share { display: inline-block; width: 4rem; height: 0.5rem;
  border-radius: 3px; background: var(--track); overflow: hidden; text-align: left; }
.homer-answer .share i { display: block; height: 100%; background: var(--link); }
.homer-answer svg { display: block; width: 100%; min-width: 46rem; height: auto; }
.homer-answer svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  fill: var(--ink); }
.homer-answer svg .faint { fill: var(--faint); }
.homer-answer svg .on-kept { fill: var(--kept-ink); }
.homer-answer svg .odd { fill: var(--odd); }
.homer-answer details { border: 1px solid var(--line); border-radius: 10px; margin: 0.6rem 0; }
.homer-answer summary { cursor: pointer; padding: 0.6rem 1rem; font-weight: 600; overflow-wrap: anywhere; }
.homer-answer summary .kept { color: var(--faint); font-weight: 400; font-size: 0.9rem; margin-left: 0.6rem; }
.homer-answer summary:focus-visible, .homer-answer a:focus-visible, .homer-answer .scroll:focus-visible {
  outline: 2px solid var(--link); outline-offset: 2px; border-radius: 4px; }
.homer-answer .text { padding: 0.9rem 1rem 1.1rem; border-top: 1px solid var(--line); color: var(--faint);
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; line-height: 1.75; font-size: 0.95rem; }
.homer-answer .text span { color: var(--ink); border-radius: 2px; padding: 0.1em 0; }
.homer-answer .text mark { padding: 0.1em 0; color: var(--kept-ink); background: var(--kept);
  box-shadow: inset 0 -2px 0 var(--kept-line); border-radius: 2px; }
.homer-answer .dropped { background: var(--track); fill: var(--track); }
.homer-answer .all { background: var(--kept); fill: var(--kept); }
@media (max-width: 46rem) {
  .homer-answer { padding: 1.25rem 1rem; }
  .homer-answer table { min-width: 0; }
  .homer-answer thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .homer-answer tbody tr { display: grid; grid-template-columns: auto 1fr auto; gap: 0.35rem 0.75rem;
    padding: 0.6rem 0; border-bottom: 1px solid var(--line); }
  .homer-answer tbody th, .homer-answer tbody td { display: block; padding: 0; border: 0; max-width: none; }
  .homer-answer tbody th { grid-column: 2 / 4; }
  .homer-answer td.wide { grid-column: 1 / 4; width: auto; min-width: 0; }
  .homer-answer tbody .kept { grid-column: 1 / 3; text-align: left; color: var(--faint); font-size: 0.85rem; }
  .homer-answer tbody .attention { font-size: 0.85rem; }
  .homer-answer .short { display: inline; }
}
@media print { .homer-answer { max-width: none; padding: 0; -webkit-print-color-adjust: exact; } }
"""
_PAGE = """
html { background: #ffffff; color-scheme: light dark; }
body { margin: 0; }
@media (prefers-color-scheme: dark) { html { background: #14171c; } }
"""
# Of what came through one level, through half of them, and through all but one, as red, green and blue: from blue by
# green to yellow, so that neighbours differ in colour where many levels leave little difference in strength. Each
# bears the page's text.
LIGHT = ((190, 212, 252), (158, 226, 166), (255, 232, 96))
DARK = ((36, 62, 124), (16, 96, 60), (134, 92, 0))


def sheet(levels: int, *, whole: bool) -> str:
    """The style sheet for a tree of so many levels; `whole` where the page holds nothing else."""
    names = [f"l{level}" for level in range(1, levels)]
    light, dark = ("".join(map(_rule, names, shades(levels, stops))) for stops in (LIGHT, DARK))
    return f"{_PAGE if whole else ''}{_SHEET}{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def shade_class(survived: int, levels: int) -> str:
    """The class of what came through so many levels; empty for what the leaves dropped."""
    return "all" if survived == levels else f"l{survived}" if survived else ""


def shades(levels: int, stops: Sequence[Colour]) -> list[Colour]:
    """The colours of levels 1 to levels - 1, in even steps along the stops."""
    places = [(len(stops) - 1) * level / max(1, levels - 2) for level in range(levels - 1)]
    return [_between(stops, place) for place in places]


def _between(stops: Sequence[Colour], place: float) -> Colour:
    first = min(int(place), len(stops) - 2)
    red, green, blue = (
        round(a + (b - a) * (place - first)) for a, b in zip(stops[first], stops[first + 1], strict=True)
    )
    return red, green, blue


def _rule(name: str, colour: Colour) -> str:
    shade = "rgb({} {} {})".format(*colour)
    return f".homer-answer .{name} {{ background: {shade}; fill: {shade}; }}\n"
