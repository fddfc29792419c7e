"""`homer ask --cite`: below the answer, what each of its sentences rests on."""

import json
from pathlib import Path

import pytest
from small import asked_small

from homer.cli import main

TEXT = "Doors are green. The door code is 48213. Ask for keys."


def test_ask_says_what_it_rests_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = tmp_path / "heads.safetensors"
    asked_small(tmp_path / "small").calibration.save(heads)
    (tmp_path / "doors.md").write_text(TEXT)
    given = ["ask", str(tmp_path / "doors.md"), "--model", str(tmp_path / "small"), "--calibration", str(heads)]
    given += ["--question", "What is the door code?", "--max-tokens", "8", "--no-progress"]
    assert main([*given, "--cite", "--json"]) == 0
    part = json.loads(capsys.readouterr().out)["citations"][0]["cited"][0]
    assert TEXT[part["start"] : part["end"]] == part["text"]
    assert main([*given, "--cite"]) == 0
    assert f" rests on\n  doors.md: {part['start']}-{part['end']}: {part['text']}\n" in capsys.readouterr().out
    assert main(given) == 0
    assert "rests on" not in capsys.readouterr().out
