"""Units within a budget: whole, with headers and marks of gaps, and given back exactly."""

import random

from homer.text.picking import Picker
from homer.text.units import Unit

PLAIN = [Unit(i, i + 1, "sentence", 0) for i in range(5)]
TABLE = [Unit(0, 1, "header", 0), *(Unit(i, i + 1, "row", 0, 0) for i in range(1, 4))]


def gaps(kept: list[int], count: int) -> int:
    marks = "".join("x" if number in kept else " " for number in range(count))
    return len(marks.split("x")) - marks.split("x").count("") if kept else 0


def test_what_does_not_fit_is_passed_over() -> None:
    picker = Picker([PLAIN], [4, 9, 2, 1, 1], 0, 7)
    picker.pick([[0], [1], [2], [3], [4]])
    assert picker.kept(0, 5) == [0, 2, 3]


def test_gaps_cost_their_mark() -> None:
    picker = Picker([PLAIN], [1] * 5, 2, 5)
    picker.pick([[2], [0]])  # a mark on both sides of the third leaves no room for the first
    assert picker.kept(0, 5) == [2]
    closing = Picker([PLAIN], [1] * 5, 2, 6)
    closing.pick([[0], [2], [3], [1]])  # two marks at first; the fourth does not fit, and the second closes a gap
    assert closing.kept(0, 5) == [0, 1, 2]


def test_a_row_brings_its_header() -> None:
    picker = Picker([PLAIN, TABLE], [1] * 9, 0, 100)
    picker.pick([[7], [8]], most=1)
    assert picker.kept(5, 9) == [0, 2]
    assert picker.kept(0, 5) == []
    assert picker.drop() == [5, 7]
    assert picker.kept(5, 9) == []


def test_crumbs_do_not_fill_the_rest() -> None:
    picker = Picker([PLAIN * 4], [9] * 12 + [1] * 8, 0, 10)
    picker.pick([[number] for number in range(20)])
    assert picker.kept(0, 20) == [0]


def test_the_sum_is_always_that_of_what_stays() -> None:
    rng = random.Random(0)
    for _ in range(50):
        tokens = [rng.randrange(5) for _ in range(9)]
        picker = Picker([PLAIN, TABLE], tokens, 3, rng.randrange(1, 30))
        picker.pick([[number] for number in rng.sample(range(9), 9)])
        for _ in range(rng.randrange(3)):
            if picker.kept(0, 9):
                picker.drop()
        sides = picker.kept(0, 5), picker.kept(5, 9)
        expected = sum(tokens[n] for n in sides[0]) + sum(tokens[5 + n] for n in sides[1])
        assert picker._used == expected + 3 * (gaps(sides[0], 5) + gaps(sides[1], 4))
