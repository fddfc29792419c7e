"""What a real model still finds in far more than its window holds."""

from typing import Any

import pytest
from real_model import passages, questions, real, smollm2

pytestmark = pytest.mark.real
KEPT, PASSAGES = 512, 60  # some 10,000 tokens, in a window of 8,192


def share(rows: list[dict[str, Any]], fact: str) -> float:
    return sum(row[fact] for row in rows) / len(rows)


def ask(cases: list[Any], answered: bool) -> list[dict[str, Any]]:
    rows = [real().measure(smollm2(), case, KEPT, "auto", answered) for case in cases]
    assert all(row["tokens"] > smollm2().window for row in rows)
    return rows


def test_needles() -> None:
    rows = ask(real().needles(passages(), 2, PASSAGES), True)
    assert share(rows, "survives") == 1
    assert share(rows, "right") >= 0.5, [row["said"] for row in rows]


@pytest.mark.long
def test_more_needles() -> None:
    rows = ask(real().needles(passages(), 12, 2 * PASSAGES), True)
    assert share(rows, "survives") == 1
    assert share(rows, "right") >= 0.8, [row["said"] for row in rows]


@pytest.mark.parametrize(("name", "count"), [("xquad", PASSAGES), ("nq", 80)])  # those of "nq" are shorter
def test_answers_to_real_questions_survive(name: str, count: int) -> None:
    rows = ask(real().draw(name, questions(), 2, count), False)
    assert share(rows, "survives") >= 0.5


@pytest.mark.long
@pytest.mark.parametrize("name", ["xquad", "nq"])
def test_more_answers_survive(name: str) -> None:
    rows = ask(real().draw(name, questions(), 20, 2 * PASSAGES), False)
    assert share(rows, "survives") >= 0.85
