"""Every Python example of the README runs, and prints what its comments say."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_example(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {})
    promised = re.findall(r"^(?:print|asyncio\.run)\(.*\)  # (.*)$", BLOCKS[number], re.M)
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(promised)] == promised


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 4
    assert "@" + "DEMO@" not in README
