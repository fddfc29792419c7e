"""Tables in lines: which there are, what heads them, and where their rows end."""

import time

import pytest

from homer.text.lines import split_lines
from homer.text.tables import begins_table, read_table
from homer.text.units import split_units

MYSQL = "+------+-------+\n| gate | code  |\n+------+-------+\n| north | 48213 |\n| south | 11111 |\n+------+-------+"
PSQL = " gate  | code \n-------+------\n north | 48213\n south | 11111"
GRID = "+---+---+\n| a | b |\n+===+===+\n| 1 | 2 |\n+---+---+\n| 3 | 4 |\n+---+---+"
ORG = "| a | b |\n|---+---|\n| 1 | 2 |"
QUOTED = "> | a | b |\n> |---|---|\n> | 1 | 2 |"


def parts(text: str) -> list[str]:
    units = split_units(text)
    assert {unit.kind for unit in units} == {"header", "row"}
    assert [unit.header for unit in units] == [None, *[0] * (len(units) - 1)]
    return [text[unit.start : unit.end] for unit in units]


@pytest.mark.parametrize(
    ("text", "header", "rows"),
    [
        (MYSQL, 3, [1, 2]),
        (PSQL, 2, [1, 1]),
        (GRID, 3, [2, 2]),
        (ORG, 2, [1]),
        (QUOTED, 2, [1]),
        ("name | city\n:-- | --:\nAnn | Bonn", 2, [1]),
        ('name,city,note\nAnn,Bonn,"likes a, b"\nBob,Kiel,"x,""y"",z"', 1, [1, 1]),
        ('name,note,age\nAnn,"first\n\nsecond, third",3\nBob,ok,4', 1, [3, 1]),
        ('size,price\n5" pipe,3\n6" pipe,4', 1, [1, 1]),
        ("a\tb\tc\n1\t\t3\n\t2\t3\n4\t5\t", 1, [1, 1, 1]),
        ("a;b;c\n1,5;2;3\n4,5;5;6", 1, [1, 1]),
        ("name, city, age\nAnn, Bonn, 3\nBob, Kiel, 4", 1, [1, 1]),
        ("a,b,c\n1,2,3\n4,5\n6,7,8", 1, [1, 1, 1]),
        ("gate,code,floor\nnorth,48213,2", 1, [1]),
    ],
)
def test_tables_of_all_kinds(text: str, header: int, rows: list[int]) -> None:
    assert read_table(split_lines(text), 0) == (header, rows)
    assert begins_table(split_lines(text), 0)
    found = parts(text)
    assert len(found) == 1 + len(rows)
    assert "".join("".join(found).split()) == "".join(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "Red, green and blue\nOne, two and three\nUp, down and out",
        "He came, saw, and won.\nShe stayed, slept, and left.\nThey sang, danced, and ate.",
        "name: Ann\ncity: Bonn\nzip: 1",
        "Title\n---\nText",
        "a | b\nc",
        "1,000 men came\nNobody left",
    ],
)
def test_what_is_no_table(text: str) -> None:
    assert read_table(split_lines(text), 0) is None
    assert not begins_table(split_lines(text), 0)


def test_a_table_ends_where_prose_begins() -> None:
    units = split_units("a,b,c\n1,2,3\n4,5,6\nThat was the table of this year, which nobody read.")
    assert [unit.kind for unit in units] == ["header", "row", "row", "sentence"]
    several = split_units("| a |\n|---|\n| 1 |\n\n| b |\n|---|\n| 2 |\nEnd.")
    assert [(unit.kind, unit.header) for unit in several] == [
        ("header", None), ("row", 0), ("header", None), ("row", 2), ("sentence", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["a|\n" + " " * 200_000 + "|x", "|\n" * 50_000, '"a,b\n' * 20_000, "|a|\n|-|\nb\n" * 9_000]
)
def test_what_looks_like_tables_takes_time_by_its_length(text: str) -> None:
    start = time.perf_counter()
    split_units(text)
    assert time.perf_counter() - start < 15
