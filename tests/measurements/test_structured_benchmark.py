"""The benchmark of constrained decoding runs end to end on a toy."""

import json
from pathlib import Path

import pytest
from small import load_benchmark

pytest.importorskip("llguidance")

from schemas import SCHEMAS


def test_a_tiny_run(tmp_path: Path) -> None:
    out = tmp_path / "structured.json"
    load_benchmark("structured").main(["--tiny", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    cost = [row for row in rows if row["part"] == "cost"]
    assert [(row["streams"], row["grammar"]) for row in cost[:2]] == [(1, "free"), (1, "schema")]
    assert all(row["step_ms"] > 0 for row in cost)
    validity = [row for row in rows if row["part"] == "validity"]
    assert [row["schema"] for row in validity] == list(SCHEMAS)
    assert all(row["whole"] == row["streamed"] == row["equal"] == 1 and not row["cut"] for row in validity)
