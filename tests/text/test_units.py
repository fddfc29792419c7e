"""What of a text stays or goes as a whole."""

import pytest

from homer.text.ends import LONGEST
from homer.text.units import split_units

MARKDOWN = """# Prices

Prices are in euro, e.g. 3.50 for Dr. Smith. They rose in 2020! Who knows?

| item | price |
|---|---|
| bolt | 3.5 |
| nut | 1.2 |

- first item. It has two sentences.
- second item
  goes on here

```python
x = 1

y = 2
```
"""


def texts(text: str) -> list[str]:
    return [text[unit.start : unit.end] for unit in split_units(text)]


def test_kinds_of_markdown() -> None:
    units = split_units(MARKDOWN)
    kinds = "heading sentence sentence sentence header row row item item code".split()
    assert [unit.kind for unit in units] == kinds
    found = texts(MARKDOWN)
    assert found[1] == "Prices are in euro, e.g. 3.50 for Dr. Smith."
    assert found[4] == "| item | price |\n|---|---|"
    assert [unit.header for unit in units[5:7]] == [4, 4]
    assert found[8] == "- second item\n  goes on here"
    assert found[9] == "```python\nx = 1\n\ny = 2\n```"
    assert units[0].passage == units[1].passage != units[4].passage  # a heading goes with what stands below it


@pytest.mark.parametrize(
    "text", [MARKDOWN, "", " \n\n ", "a", "\r\na b.\r\n\r\nc\rd", "```\nnever closed", "。！文。字"]
)
def test_units_are_in_order_and_lose_no_letter(text: str) -> None:
    units = split_units(text)
    edges = [edge for unit in units for edge in (unit.start, unit.end)]
    assert edges == sorted(edges)
    assert "".join("".join(texts(text)).split()) == "".join(text.split())
    assert all(text[unit.start : unit.end].strip() == text[unit.start : unit.end] != "" for unit in units)
    assert all(units[unit.header].kind == "header" for unit in units if unit.header is not None)


def test_values_between_separators_are_a_table() -> None:
    csv = "name,city\nAnn,Bonn\nBob,Kiel"
    assert [unit.kind for unit in split_units(csv)] == ["header", "row", "row"]
    prose = "Red, green and blue\nOne, two and three\nUp, down and out"
    assert [unit.kind for unit in split_units(prose)] == ["line"] * 3


def test_lines_broken_for_their_length_are_no_ends() -> None:
    wrapped = (
        "The committee met on the third floor of the old house in\n"
        "order to speak about the roof, which had been leaking for\n"
        "years. Nobody came."
    )
    assert len(split_units(wrapped)) == 2
    assert len(split_units("name: Ann\ncity: Bonn")) == 2


def test_sentences_end_where_they_end() -> None:
    assert texts("J. Smith met Prof. Lee. He left at 5 p.m. on Monday (late.) Then!") == [
        "J. Smith met Prof. Lee.", "He left at 5 p.m. on Monday (late.)", "Then!",
    ]  # fmt: skip
    assert texts("今日は雨。明日は晴れ。") == ["今日は雨。", "明日は晴れ。"]


def test_what_has_no_end_is_cut_at_white_space() -> None:
    text = "word " * 600
    units = split_units(text)
    assert len(units) == 3
    assert all(unit.end - unit.start <= LONGEST for unit in units)
    assert "".join(texts(text)).replace(" ", "") == "word" * 600
    assert len(split_units("x" * (LONGEST + 1))) == 2
