"""Every Python example of the README and of the docs runs, and prints what its comments say."""

import re
from pathlib import Path

import pytest

import homer

ROOT = Path(homer.__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
DOCS = README + (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS, re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_example(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {})
    promised = re.findall(r"^(?:print|asyncio\.run)\(.*\)  # (.*)$", BLOCKS[number], re.M)
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(promised)] == promised


def test_a_significance_of_ones_own_takes_20_lines() -> None:
    lines = [line for line in BLOCKS[-1].splitlines() if line.strip()]
    assert len(lines) <= 20
    assert "(Significance):" in BLOCKS[-1]


def test_the_architecture_names_what_is_there() -> None:
    picture = re.search(r"```\n(.*?)```", ARCHITECTURE, re.S)
    assert picture is not None
    named = re.findall(r"^(?: \|.*?-> |homer/)([\w/]+\.py)", picture[1], re.M)
    assert 10 <= len(named) <= 12
    for name in named:
        assert (ROOT / "homer" / name).is_file(), name
    folders = re.findall(r"^\| `(\w+)/`", ARCHITECTURE, re.M)
    assert {"text", "plan", "backends", "merging"} < set(folders)
    assert all((ROOT / "homer" / name).is_dir() for name in folders)


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 4
    assert "@" + "DEMO@" not in README
