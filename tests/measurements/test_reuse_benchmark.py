"""The benchmark of second questions runs end to end on a toy."""

import json
from pathlib import Path

import pytest
from small import load_benchmark


def test_a_tiny_run(tmp_path: Path) -> None:
    out = tmp_path / "reuse.json"
    load_benchmark("reuse").main(["--tiny", "--out", str(out)])
    short, row = json.loads(out.read_text())["rows"]
    assert short["notes"] == []
    assert short["leaves"] < row["leaves"]
    assert row["notes"] == []
    assert row["kept_alike"] == 1
    assert row["from_disk"] == row["tokens"] - 16
    assert all(row[f"{name}_s"] > 0 for name in ("scratch", "first", "second", "pinned", "disk", "plain_second"))
    assert row["kept_gb"] * 1e9 == pytest.approx(row["kept_bytes_per_token"] * (row["tokens"] - 8))
