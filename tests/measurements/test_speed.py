"""The speed benchmark runs end to end on a toy, and its floors are those worked out by hand for one H200."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small import load_benchmark

from homer import plan_merge


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    return load_benchmark("speed")


@pytest.mark.parametrize(
    ("name", "tokens", "full", "decode"),
    [
        ("llama-2-7b", 2**14, 0.358, 5.07),
        ("llama-2-7b", 2**16, 2.50, 11.1),
        ("llama-2-7b", 2**20, 382, 131),
        ("llama-3.1-8b", 2**16, 2.58, 5.49),
    ],
)
def test_floors_of_the_full_prefill(speed: ModuleType, name: str, tokens: int, full: float, decode: float) -> None:
    ceilings = speed.Ceilings(790e12, 4.3e12)
    assert speed.full_floor(speed.SHAPES[name], ceilings, tokens) == pytest.approx(full, rel=0.005)
    assert 1000 * speed.decode_floor(speed.SHAPES[name], ceilings, tokens) == pytest.approx(decode, rel=0.005)


@pytest.mark.parametrize(("leaves", "chunk", "seconds"), [(32, 2048, 0.674), (16, 4096, 0.697), (64, 2048, 1.49)])
def test_floors_of_a_compression(speed: ModuleType, leaves: int, chunk: int, seconds: float) -> None:
    plan = plan_merge(
        0, leaves * (chunk - 1), 1, layers=32, max_chunk_len=chunk, target_len=chunk, layers_warmup=12
    )  # fmt: skip
    found = speed.homer_floor(speed.SHAPES["llama-2-7b"], speed.Ceilings(790e12, 4.3e12), plan, False)
    assert found == pytest.approx(seconds, rel=0.02)


def test_a_tiny_run(speed: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    config = ["--config", "refresh_suffix=false", "significance=standardized"]
    speed.main(["--tiny", "--calibrated", *config, "--out", str(out)])
    data = json.loads(out.read_text())
    assert [(row["method"], row["length"]) for row in data["rows"]] == [
        (method, length) for length in (300, 900) for method in ("homer", "ask", "full", "yarn")
    ]
    for row in data["rows"]:
        assert "note" not in row
        assert row["prefill_s"] > 0 < row["prefill_floor_s"]
        if row["method"] != "ask":
            assert row["decode_ms"] > 0 < row["decode_floor_ms"]
    assert data["rows"][0]["cached_tokens"] <= 128
    assert data["rows"][6]["homer_is_faster"] == data["rows"][6]["prefill_s"] / data["rows"][4]["prefill_s"]
    assert abs(data["rows"][5]["tokens"] - 900) < 200
    assert data["rows"][5]["documents"] == 5
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_what_stands_around_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overhead, out = load_benchmark("overhead"), tmp_path / "overhead.json"
    overhead.main(["--tokens", "2000", "--repeats", "1", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["documents"] for row in rows] == [
        "375 documents",
        "one document",
        "one of 6,000 lines",
        "8,000 documents",
    ]
    assert all(row[step] > 0 for row in rows for step in ("prompt", "second prompt", "sources", "trace"))
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_whatever_happens_there_is_a_row(speed: ModuleType) -> None:
    report = speed.main(["--tiny", "--lengths", "10", "300", "--methods", "homer"])
    assert report["rows"][0]["note"].startswith("failed: InputError: the context holds 0 tokens")
    assert "prefill_s" in report["rows"][1]
    report = speed.main(["--tiny", "--lengths", "300", "--limit-s", "0"])
    assert {row["note"] for row in report["rows"]} == {"no time left"}


def test_full_leaves(speed: ModuleType) -> None:
    report = speed.main(["--tiny", "--lengths", "900", "--methods", "homer", "--full-leaves"])
    row = report["rows"][0]
    assert (row["leaves"], row["leaf_len"], row["tokens"]) == (4, 128, 4 * (128 - 16) + 16)


def test_yarn_shares_the_weights(speed: ModuleType) -> None:
    model = speed.build(speed.SHAPES["tiny"], torch.device("cpu"), torch.float32, "sdpa")
    twin = speed.with_yarn(model, 4.0)
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert model.config.max_position_embeddings * 4 == twin.config.max_position_embeddings
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, twin(ids).logits)


def test_the_cpu_benchmark_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cpu, out = load_benchmark("cpu"), tmp_path / "cpu.json"
    report = cpu.main(["--tokens", "700", "--batches", "1", "2", "--repeats", "1", "--out", str(out)])
    assert json.loads(out.read_text()) == report
    assert [row["path"] for row in report["rows"]] == ["simple", "simple", "fast", "fast"] * 2
    assert report["rows"][0]["faster"] == 1
    assert min(row["tokens"] for row in report["rows"]) > 700
    assert len(capsys.readouterr().out.splitlines()) == 8
