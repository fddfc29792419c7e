"""kvpress's side of the comparison without kvpress: what is exported, what a press keeps, and the table of both."""

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from small import asked_small, load_benchmark

from homer import HomerModel

DOCUMENTS = [{"text": "Ann has the key. " + "It rains. " * 30}, {"text": "Tea grows. " * 20}]


@pytest.fixture(scope="module")
def against() -> ModuleType:
    return load_benchmark("against_kvpress")


class FirstTokens:
    """A press that keeps the first tokens."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def score(self, keys: torch.Tensor) -> torch.Tensor:
        return -torch.arange(keys.shape[2]).expand(1, keys.shape[1], -1).float()

    def __call__(self, model: Any) -> Any:
        return SimpleNamespace(__enter__=lambda: None)


def test_spans_are_where_the_answer_is_stated(mini: HomerModel) -> None:
    prompt = mini.build_prompt("Who has the key?", DOCUMENTS)
    case = SimpleNamespace(gold=[(0, ["the key", "rains"])])
    spans = load_benchmark("real").answer_tokens(prompt, *case.gold[0])
    texts = [mini.tokenizer.decode(prompt.context_ids[span]).strip() for span in spans]
    assert texts[0] == "the key"
    assert len(texts) == 31


def test_a_watched_press_tells_in_how_many_heads_a_span_is_whole(against: ModuleType) -> None:
    press = FirstTokens(0.5)
    watch = against.Watch(press, 4, [[2, 3], [9]])
    assert press.score(torch.zeros(1, 3, 10, 2)).shape == (1, 3, 10)
    assert watch.share() == 1.0
    watch = against.Watch(FirstTokens(0.5), 4, [[3, 4], [9]])
    watch._watch(torch.zeros(1, 3, 10, 2))
    assert watch.share() == 0.0


def test_with_no_press_it_is_the_plain_model(against: ModuleType, mini: HomerModel) -> None:
    ids, answer = mini.tokenize("Two and two is four, and"), mini.tokenize(" five")
    case = {"task": "needle", "ids": ids, "answer": answer, "spans": []}
    row = against.press_one(SimpleNamespace(ScorerPress=FirstTokens), mini.model, "none", 4, case)
    with torch.inference_mode():
        logits = mini.model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        said = mini.model.generate(torch.tensor([ids]), max_new_tokens=3, do_sample=False)[0, len(ids) :]
    assert row["likelihood"] == pytest.approx(float(logits.gather(1, torch.tensor(answer)[:, None]).mean()), abs=1e-3)
    assert row["said"][: len(said)] == said.tolist()
    assert row["kept"] == len(ids)


def test_ours_is_shortened_inside_the_window(against: ModuleType, tmp_path: Path) -> None:
    small = asked_small(tmp_path)
    prompt = small.build_prompt("Who?", ["It rains. " * 12])
    assert len(prompt) < small.window
    case = SimpleNamespace(gold=[(0, ["rains"])], answer="Ann", question="Who?")
    row = against._ours(small, prompt, case, 64)
    assert row["kept"] == 64 < len(prompt)
    assert row["survives"]
    assert row["likelihood"] < 0


def test_the_table(against: ModuleType, mini: HomerModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mini.tokenizer.save_pretrained(tmp_path / "model")
    case = {"task": "needle", "ids": [1], "answer": [2], "gold": "1234", "spans": []}
    ours = {"task": "needle", "by": "ours", "budget": 256, "survives": True, "likelihood": -1.0, "right": True}
    said = mini.tokenize("It is 1234.")
    press = {"task": "needle", "by": "SnapKV", "budget": 256, "survives": 0.25, "likelihood": -2.0, "said": said}
    whole = {"task": "needle", "by": "none", "budget": 256, "likelihood": -0.5, "said": []}
    for name, content in {
        "cases": {"cases": [case]},
        "ours": {"rows": [ours]},
        "kvpress": {"rows": [press, whole]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    against.main(["table", "--out", str(tmp_path)])
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[2:] == [
        "| needle | 256 | ours | 1 | 1.00 | - | 1.00 | -1.00 |",
        "| needle | 256 | SnapKV | 1 | - | 0.25 | 1.00 | -2.00 |",
        "| needle | all | none | 1 | - | - | 0.00 | -0.50 |",
    ]
    assert lines[-1] in capsys.readouterr().out
