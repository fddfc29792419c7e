"""RULER's tasks: what is hidden and asked for, lengths, and what is refused; the benchmark runs end to end."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from small import asked_small, load_benchmark

from homer import ConfigError, HomerModel, InputError
from homer.demo import DOCUMENTS
from homer.experiments import RULER_TASKS, Setup, ruler_cases
from homer.experiments.cases import Case, CaseTokenizer


def make(mini: HomerModel, task: str, length: int = 700, **options: int) -> list[Case]:
    return ruler_cases(Setup(mini), task, DOCUMENTS, context_lengths=[length], samples=2, repeat=True, **options)


@pytest.mark.parametrize("task", RULER_TASKS)
def test_cases_fill_their_length(mini: HomerModel, task: str) -> None:
    tokenizer = CaseTokenizer(mini.tokenizer)
    length = 2500 if task == "common words" else 700
    first, second = make(mini, task, length)
    assert first == make(mini, task, length)[0] != second
    for case in (first, second):
        assert length - 100 < sum(map(len, tokenizer.tokenize(case))) <= length
        assert case.found(" ".join(case.targets)) == 1
        for target in case.targets:
            assert re.search(rf"\b{target}\b", case.context)


@pytest.mark.parametrize(
    ("task", "facts", "targets"), [("single", 1, 1), ("multi-key", 4, 1), ("multi-value", 4, 4), ("multi-query", 4, 4)]
)
def test_needles(mini: HomerModel, task: str, facts: int, targets: int) -> None:
    case = make(mini, task)[0]
    found = re.findall(r"door codes? for the (\w+ \w+) is (\d{5})\.", case.context)
    assert (len(found), len(case.targets)) == (facts, targets)
    asked = {key for key, value in found if value in case.targets}
    assert all(key in case.postfix for key in asked)
    assert not any(key in case.postfix for key, _ in found if key not in asked)


def test_variables_stand_in_order(mini: HomerModel) -> None:
    case = make(mini, "variables")[0]
    places = [case.context.index(f"The variable {name} is set") for name in case.targets]
    assert places == sorted(places)
    value = re.search(rf"The variable {case.targets[0]} is set to (\d+)\.", case.context)
    assert value
    assert value[1] in case.postfix
    for before, name in itertools.pairwise(case.targets):
        assert f"The variable {name} is set to the value of {before}." in case.context


def test_common_words_stand_ten_times_as_often(mini: HomerModel) -> None:
    case = make(mini, "common words", 3000)[0]
    listed = re.findall(r"\d+\. (\w+)", case.context)
    counts = Counter(listed)
    assert {counts.pop(word) for word in case.targets} == {30}
    assert set(counts.values()) == {3}
    assert f"{len(listed)}. {listed[-1]}" in case.context


@pytest.mark.parametrize(
    ("task", "length", "error", "message"),
    [
        ("maze", 700, ConfigError, "task='maze' is none: give one of single, multi-key"),
        ("common words", 300, InputError, "a context length of 300 tokens holds no list of words"),
        ("common words", 10**6, InputError, "different words, a list of 1,000,000 tokens needs more"),
        ("single", 40, InputError, "leaves"),
    ],
)
def test_what_is_refused(mini: HomerModel, task: str, length: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(mini, task, length)


def test_the_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small, out = asked_small(tmp_path / "model", window=512), tmp_path / "out"
    benchmark = load_benchmark("ruler")
    monkeypatch.setattr(benchmark, "RULER_NEW_TOKENS", 4)
    monkeypatch.setattr(benchmark.HomerModel, "from_pretrained", lambda *_, **__: small)
    few = [
        "--tasks",
        "single",
        "multi-value",
        "--lengths",
        "300",
        "900",
        "--samples",
        "1",
        "--repeat",
        "--target",
        "200",
    ]
    benchmark.main(["--model", "small", "--haystack", str(DOCUMENTS), "--out", str(out), *few])
    rows = json.loads((out / "ruler.json").read_text())["rows"]
    assert [(row["method"], row["length"]) for row in rows] == 2 * [("plain", 300), ("homer", 300), ("homer", 900)]
    assert all(0 <= row["found"] <= 1 and row["kept"] <= row["length"] for row in rows)
    assert "| single | plain | 0.00 | - |" in (out / "ruler.md").read_text()
    assert "| multi-value | homer |" in capsys.readouterr().out
