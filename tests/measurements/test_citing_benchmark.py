"""benchmarks/citing.py and benchmarks/priors.py: what counts as right, and their tables."""

from types import ModuleType
from typing import Any

import pytest
from small import load_benchmark

from homer import Citation, Cited, HomerConfig, HomerModel

TEXTS = ["Rain fell. Nobody came.", "Doors are green. The door code is 48213.", "It is late."]
QUESTION = "What is the door code?"


@pytest.fixture(scope="module")
def real() -> ModuleType:
    return load_benchmark("real")


def case(real: ModuleType) -> Any:
    return real.Case(QUESTION, [{"text": text} for text in TEXTS], [(1, ["48213", "forty"])], "48213")


def cited(*places: tuple[int, int, int]) -> list[Citation]:
    parts = tuple(Cited(index, None, a, b, TEXTS[index][a:b], 0.5) for index, a, b in places)
    return [Citation(0, 5, parts)]


def test_what_is_cited_is_judged(real: ModuleType) -> None:
    citing = load_benchmark("citing")
    right, beside, other = (1, 17, 40), (1, 0, 16), (0, 0, 10)
    for places, expected in (
        ((right,), [True] * 4),
        ((beside, right), [True, True, False, True]),
        ((other, beside), [False, True, False, False]),
        ((), [False] * 4),
    ):
        assert list(citing.judged(case(real), cited(*places)).values()) == expected
    assert list(citing.judged(case(real), []).values()) == [False] * 4
    assert citing.answers_right(case(real), "Forty.")
    assert not citing.answers_right(case(real), "Fifty.")


def test_a_question_is_cited_and_counted(real: ModuleType, small: HomerModel) -> None:
    citing = load_benchmark("citing")
    row = {"task": "xquad"} | citing.measure(small, case(real), None, None)
    assert row["survives"], "all of it fits"
    lines = citing.table([row, row | {"right": True, "by what was said": dict.fromkeys(citing.RIGHT, True)}])
    assert "| xquad | what was said, where it is right | 1 | 1.00 | 1.00 | 1.00 | 1.00 |" in lines


def test_a_prior_is_measured_by_looking_once(real: ModuleType, small: HomerModel) -> None:
    priors = load_benchmark("priors")
    ways = priors.compressors(small, HomerConfig(), [0.0, 8.0])
    documents = priors.with_scores(case(real))
    assert max(documents, key=lambda document: document["score"])["text"] == TEXTS[1], "BM25 finds it"
    rows = [{"set": "s", "prior": prior} | priors.measure(way, case(real), documents) for prior, way in ways.items()]
    assert list(ways[0.0].memo) == ["votes"]
    assert ways[0.0].memo is ways[8.0].memo
    assert rows[1]["rank"] == 0
    assert rows[1]["survives"]["1024"]
    bm25 = {"set": "s", "prior": "bm25 alone", "rank": 0, "survives": {}}
    table = priors.table([bm25, rows[1]])
    assert table[2] == "| s | bm25 alone | 1 | 1.00 | 1.00 | 1.00 | 1.00 | - | - | - | - |"
    assert table[3].startswith("| s | 8.0 | 1 | 1.00 |")
