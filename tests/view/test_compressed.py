"""Shorter documents, put together from their units."""

import pytest

from homer import Compressed, Document, Usage
from homer.text.units import split_units
from homer.view.compressed import assemble

TABLE = "| item | price |\n|---|---|\n| bolt | 3.5 |\n| nut | 1.2 |\n| pin | 0.9 |\n\nAll net. Others on request."


@pytest.mark.parametrize(
    ("kept", "marker", "expected"),
    [
        ([0, 1], "...", "One. Two. ..."),
        ([0, 2], "...", "One. ... Three."),
        ([1], "...", "... Two. ..."),
        ([0, 2], "", "One. Three."),
        ([0, 1, 2], "...", "One. Two. Three."),
    ],
)
def test_marks_stand_where_something_was(kept: list[int], marker: str, expected: str) -> None:
    text = " One. Two. Three.\n"
    made, spans = assemble(text, split_units(text), kept, marker)
    assert made == expected
    assert all(text[a:b] in made for a, b in spans)


def test_a_table_stays_one() -> None:
    units = split_units(TABLE)
    made, spans = assemble(TABLE, units, [0, 2, 4], "[...]")
    assert made == "| item | price |\n|---|---|\n| [...] |\n| nut | 1.2 |\n| [...] |\n\nAll net. [...]"
    assert [TABLE[a:b] for a, b in spans] == ["| item | price |\n|---|---|", "| nut | 1.2 |", "All net."]
    bare, _ = assemble(TABLE, units, [0, 2], "")
    assert bare == "| item | price |\n|---|---|\n| nut | 1.2 |"


def test_blank_lines_around_a_gap_stay() -> None:
    text = "One.\n\nTwo.\n\nThree."
    assert assemble(text, split_units(text), [0, 2], "[...]")[0] == "One.\n\n[...]\n\nThree."
    assert assemble(text, split_units(text), [0, 2], "")[0] == "One.\n\nThree."


def test_text_and_ranking() -> None:
    result = Compressed(
        (Document("a", "A"), Document("b")), (0, 2), (((0, 1),), ((0, 1),)), (0.2, 0.2, 0.6), Usage(9, 2, 0)
    )
    assert result.text == "A\na\n\nb"
    assert result.ranking == (2, 0, 1)
