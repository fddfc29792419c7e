"""The benchmark of several devices runs end to end on a toy, and tells bits that differ."""

import dataclasses
import json
from pathlib import Path

import pytest
from small import load_benchmark


def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = load_benchmark("devices")
    out = tmp_path / "devices.jsonl"
    rows = bench.main(["--tiny", "--out", str(out)])
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert written[0]["devices"] == ["cpu", "cpu"]
    assert [(row["length"], row["same"], row["one_is_itself"]) for row in rows] == [
        (300, True, True),
        (400, True, True),
    ]
    assert written[1:] == json.loads(json.dumps(rows))
    for row in rows:
        assert row["times"] == row["one_s"] / row["all_s"]
        assert "note" not in row
    assert capsys.readouterr().out.count("yes") == 2


def test_a_cell_that_fails_is_a_row() -> None:
    bench = load_benchmark("devices")
    made = bench.Bench(bench.parse(["--tiny"]))
    row = made.measure(bench.Cell(300, "impossible", {"max_chunk_len": 100_000}))
    assert row["note"].startswith("ConfigError")
    assert "impossible" in bench.line(row)
    cache = made.one.compress([1], list(range(90)), [2])
    assert bench.same(cache, cache)
    assert not bench.same(cache, dataclasses.replace(cache, logits=cache.logits + 1e-6))
