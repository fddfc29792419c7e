"""What compressing costs beside asking is measured by turns, and the table says what was measured."""

import json
from pathlib import Path

import pytest
from small import asked_small, load_benchmark

from homer import HomerModel


def test_it_runs_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looking = load_benchmark("looking")
    small = asked_small(tmp_path / "small")
    monkeypatch.setattr(HomerModel, "from_pretrained", lambda *_, **__: small)
    looking.main(["--models", "small", "--documents", "1", "--questions", "1", "--turns", "2", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "looking.json").read_text())["rows"]
    assert (row["model"], row["layers"], row["of"]) == ("small", 4, 6)
    assert {way: len(times) for way, times in row["seconds"].items()} == {"compress": 2, "first token": 2, "ask": 2}
    assert "| small |" in capsys.readouterr().out


def test_the_table_has_medians_and_their_shares() -> None:
    seconds = {"compress": [1.0, 2.0, 9.0], "first token": [4.0], "ask": [8.0]}
    row = {"model": "m", "tokens": 5, "layers": 4, "of": 6, "seconds": seconds}
    line = load_benchmark("looking").table([row]).splitlines()[-1]
    assert line == "| m | 5 | 4 of 6 | 2.00 | 4.00 | 8.00 | 0.50 | 0.25 |"
