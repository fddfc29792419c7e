"""The table of compressors runs end to end on a toy, and what stands beside ours computes what it should."""

import gzip
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from small import asked_small, load_benchmark, save_small
from transformers import AutoTokenizer, BertConfig, BertModel

from homer import HomerModel

PARAGRAPHS = [
    "The moon is old.",
    "Tea grows on hills.",
    "Ann has the key. She lives by the north gate.",
    "Rain is wet.",
]


@pytest.fixture(scope="module")
def qa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qa")
    asked = {"question": "Who has the key?", "answers": [{"text": "Ann"}]}
    paragraphs = [{"context": text, "qas": [asked] if "Ann" in text else []} for text in PARAGRAPHS]
    with gzip.open(folder / "xquad-en-half.json.gz", "wt") as file:
        json.dump({"data": [{"paragraphs": paragraphs}]}, file)
    row = {"question": "what is the sky", "answers": ["blue"], "ctxs": [{"title": "Sky", "text": "The sky is blue."}]}
    with gzip.open(folder / "nq-open-oracle-half.jsonl.gz", "wt") as file:
        file.write(json.dumps(row))
    return folder


@pytest.fixture(scope="module")
def compressing() -> ModuleType:
    return load_benchmark("compressing")


def save_encoder(folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(save_small(folder))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    return folder


def test_a_tiny_run(compressing: ModuleType, qa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = asked_small(tmp_path / "model")
    monkeypatch.setattr(compressing.HomerModel, "from_pretrained", lambda *_, **__: small)
    ways = ["ours", "ours, plain mean", "bm25", "bm25, ours", "embedder"]
    few = ["--samples", "2", "--passages", "4", "--asks", "1", "--timed", "1", "--few", "1", "--by", *ways]
    paths = ["--model", "small", "--qa", str(qa), "--embedder", str(save_encoder(tmp_path / "bert"))]
    compressing.main([*paths, *few, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "compressing.json").read_text())
    counts = {by: sum(row["by"] == by and row["set"] == "xquad" for row in found["rows"]) for by in ways}
    assert counts == dict.fromkeys(ways, 2) | {"ours, plain mean": 1}
    assert all(row["rank"] == 0 for row in found["rows"] if row["by"] == "bm25")
    assert all(row["survives"]["128"] for row in found["rows"])  # all of it fits
    assert sum("seconds" in row for row in found["rows"]) == 2 * len(ways)
    assert (tmp_path / "out" / "compressing.png").stat().st_size > 1000
    compressing.main(["--join", *[str(tmp_path / "out" / "compressing.json")] * 2, "--out", str(tmp_path / "both")])
    assert json.loads((tmp_path / "both" / "compressing.json").read_text())["rows"] == found["rows"]
    assert (tmp_path / "both" / "compressing.md").read_text().startswith("| set | by | n |")


def test_what_states_an_answer(compressing: ModuleType) -> None:
    case = SimpleNamespace(documents=[{"text": "Ann has the key."}], gold=[(0, ["the key"])])
    assert compressing.states_answer(case, {0: [(0, 8), (8, 15)]})
    assert not compressing.states_answer(case, {0: [(0, 10), (10, 16)]})
    assert compressing.states_answer(case, "has  thekey")
    assert not compressing.states_answer(case, "Ann the")


def test_batches_hold_all_numbers_once(compressing: ModuleType) -> None:
    lengths = [900, 5, 4000, 3000, 5000, 7]
    found = list(compressing.rivals.batches(lengths))
    assert sorted(number for rows in found for number in rows) == list(range(6))
    assert all(len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= 4096 for rows in found)
    assert list(compressing.rivals.batches([])) == []


def test_a_model_takes_and_gives_lists_of_keys(compressing: ModuleType, mini: HomerModel) -> None:
    legacy, ids = compressing.rivals._Legacy(mini.model), torch.arange(5, 17)[None]
    whole = legacy(ids, torch.ones_like(ids))
    first = legacy(ids[:, :7], torch.ones(1, 7))
    assert [key.shape[2] for key, _ in first.past_key_values] == [7] * mini.decoder.layers
    rest = legacy(ids[:, 7:], torch.ones_like(ids), first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole.logits, atol=1e-3, rtol=1e-3)


def test_the_package_ranks_as_it_does_by_itself(compressing: ModuleType, mini: HomerModel) -> None:
    pytest.importorskip("llmlingua", reason="needs llmlingua")
    texts = [f"{text} It was seen by all." for text in PARAGRAPHS]
    for long in (False, True):
        lingua = compressing.rivals.Lingua(mini, long)
        ours = lingua.package.get_rank_results(texts, "Who has the key?")
        del lingua.package.get_rank_results  # the package's own method shows again
        how = ("longllmlingua", "after") if long else ("llmlingua", "none")
        theirs = lingua.package.get_rank_results(texts, "Who has the key?", *how, [9] * len(texts))
        assert [number for number, _ in ours] == [number for number, _ in theirs]
        assert [value for _, value in ours] == pytest.approx([float(value) for _, value in theirs], rel=1e-3)
        ranking, text = compressing.rivals.Lingua(mini, long).shorten("Who has the key?", texts, 20)
        assert sorted(ranking) == list(range(4))
        assert text
