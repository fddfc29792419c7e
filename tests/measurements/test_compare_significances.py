"""The script that compares significances: it compresses as the library does, and asks what training never saw."""

import json
import re
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from small import load_benchmark
from transformers import AutoTokenizer

from homer import HomerConfig, HomerModel, Observation, Standardized, load_calibration
from homer.backends.loading import MINI
from homer.significance.paper import Paper
from homer.significance.sentences import Sentences
from training.facts import Facts
from training.levels import Levels, even_plan
from training.library import tokenize, workplace_passages
from training.tasks import Case, Tasks

SHORT = HomerConfig(max_chunk_len=160, target_len=160, layers_warmup=6)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "held_out.npz"
    tokenize(AutoTokenizer.from_pretrained(MINI), list(workplace_passages(seed=1, rounds=1))[:200], "\n").save(path)
    return path


def test_levels_compress_and_read_as_the_library_does(held_out: Path) -> None:
    model = HomerModel.from_pretrained("mini", config=SHORT, dtype=torch.float32)
    case = Tasks(model, held_out).case("one_fact", 800, 1)
    parts = case.prompt.prefix_ids, case.prompt.context_ids, case.prompt.suffix_ids
    spare = torch.ones(len(parts[1]), dtype=torch.bool)
    spare[-5:] = False
    plan, even, kept = even_plan(model, parts, spare)
    assert plan.height == 3
    assert len({end - start for start, end in plan.spans}) == 1
    assert 0 < len(parts[1]) - len(kept) < 8
    assert kept[-5:].tolist() == list(range(len(parts[1]) - 5, len(parts[1])))
    levels = Levels(model, even, plan, Sentences(model.tokenizer))
    chosen = (Paper(), Standardized())
    roots = [levels.fold(significance, model.calibration) for significance in chosen]
    said = levels.read(roots, 6, frozenset({model.tokenizer.eos_token_id}))
    for significance, root, answer in zip(chosen, roots, said, strict=True):
        config = HomerConfig(**SHORT.to_dict() | {"significance": significance})
        cache = model.compress(*even, config=config)
        assert root.tokens[0].tolist() == cache.kept_tokens.tolist()
        assert answer == model.generate(cache, 6).token_ids


def test_tasks(mini: HomerModel, held_out: Path) -> None:
    tasks = Tasks(mini, held_out)
    for task, right in (("pass_key", 1), ("one_fact", 1), ("one_of_eight", 1), ("several_values", 3), ("reworded", 1)):
        case = tasks.case(task, 900, 2)
        assert case.prompt.documents == tasks.case(task, 900, 2).prompt.documents
        assert len(case.answers) == len(set(case.answers)) == right
        text = " ".join(document.text for document in case.prompt.documents)
        for answer, statement in zip(case.answers, case.statements, strict=True):
            assert answer in statement
            assert statement in text


def test_evidence_is_the_sentence_with_the_answer(mini: HomerModel) -> None:
    compare = load_benchmark("significance")
    text = "It rained. The key is 5. Remember it. 5 is the key. Ask Dr. Who. Bye."
    prompt = mini.build_prompt("What is the key?", [text])

    def found(answer: str, statement: str) -> list[str]:
        tokens = compare.evidence_tokens(Case(prompt, answer, statement, (answer,), (statement,)))
        return [mini.tokenizer.decode(prompt.context_ids[places]).strip() for places in tokens]

    assert found("5", "The key is 5. Remember it. 5 is the key.") == ["The key is 5.", "5 is the key."]
    assert found("Dr. Who", "Ask Dr. Who.") == ["Ask Dr. Who."]  # an answer that spans what looks like two sentences


def test_a_reworded_question_has_other_words() -> None:
    facts = Facts(Random(3), held_out=True, free=0)
    for _ in range(30):
        fact = facts.reworded()
        subject = fact.key.partition(" ")[2]
        words = (
            set(re.findall("[a-z]{4,}", text.replace(subject, "").lower()))
            for text in (fact.statement, fact.questions[0])
        )
        assert not set.intersection(*words) & {"code", "price", "colour", "address", "contact"}
        assert fact.answer in fact.statement


def test_a_sentence_of_every_document_comes_first() -> None:
    load_benchmark("significance")
    variants = sys.modules["variants"]
    documents = torch.tensor([-1, 0, 0, 0, 0, 1, 1, -1])
    significance = variants.in_case(variants.EveryDocument(), documents)
    assert variants.in_case(Standardized(), documents) == Standardized()
    seen = Observation(
        logits={},
        position_ids=torch.arange(8)[None],
        tokens=torch.arange(8)[None],
        scores=None,
        prefix_len=1,
        suffix_len=1,
        layers=4,
        calibration=None,
        sentences=torch.tensor([[0, 1, 1, 2, 2, 3, 4, 5]]),
    )
    scores = torch.tensor([[0.0, 9.0, 1.0, 8.0, 8.0, 2.0, 3.0, 0.0]])
    order = significance.rank(scores, seen)[0, 1:-1].argsort(descending=True) + 1
    assert sorted(order[:3].tolist()) == [1, 2, 6]  # the best sentence of each document, both of the first one's tokens
    assert sorted(order[3:5].tolist()) == [3, 4]


def test_the_table(held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare = load_benchmark("significance")
    folder = tmp_path / "out"
    folder.mkdir()
    load_calibration(MINI / "homer_calibration.safetensors").save(folder / "calibration-mini-own.safetensors")
    every = "a sentence of every document"
    made = [
        "--samples",
        "1",
        "--lengths",
        "1100",
        "--tasks",
        "pass_key",
        "--variants",
        "paper, calibrated",
        "standardized",
        every,
    ]
    report = compare.main(["--model", f"mini={MINI}", "--held-out", str(held_out), "--out", str(folder), *made])
    cells = {cell["variant"]: cell for cell in report["table"]}
    assert list(cells) == ["paper, calibrated", "standardized", every, compare.CEILING]
    assert cells["standardized"]["right"] == cells["standardized"]["whole"] == 1
    assert cells[every]["whole"] == 1
    assert json.loads((folder / "significance.json").read_text())["table"] == report["table"]
    assert "| standardized | 1.00 (1.00) |" in (folder / "significance.md").read_text()
    assert len((folder / "cases.jsonl").read_text().splitlines()) == 4
    assert "calibrated on own" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        compare.main(["--model", "mini", "--held-out", str(held_out), "--out", str(folder), "--tasks", "none"])
