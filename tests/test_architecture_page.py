"""The page on the architecture names what is there, and a significance of one's own stays short."""

import os
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def test_a_significance_of_ones_own_takes_20_lines() -> None:
    block = re.findall(r"```python\n(.*?)```", EXTENDING, re.S)[-1]
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    assert "(Significance):" in block


def pictured() -> list[str]:
    """The files of the picture, in its order."""
    picture = re.search(r"```\n(.*?)```", ARCHITECTURE, re.S)
    assert picture is not None
    return re.findall(r"^(?: \|.*?-> |homer/)([\w/]+\.py)", picture[1], re.M)


def test_a_call_goes_down_through_twelve_files_at_most_and_passes_those_of_the_picture() -> None:
    chat = pytest.importorskip("homer_integrations.langchain").ChatHomer(max_tokens=2)
    documents = [f"{number}. {'It rains. ' * 250}" for number in range(4)]
    chat.invoke("Who?", documents=documents)  # what is loaded and measured once, is
    passed: set[str] = set()
    deepest: list[str] = []
    root = f"{ROOT / 'homer'}{os.sep}"

    def watch(frame: FrameType | None, event: str, _: Any) -> None:
        if event != "call" or frame is None or not frame.f_code.co_filename.startswith(root):
            return
        files: dict[str, None] = {}
        while frame is not None:
            files[frame.f_code.co_filename] = None
            frame = frame.f_back
        own = [name.removeprefix(root).replace(os.sep, "/") for name in files if name.startswith(root)]
        passed.update(own)
        deepest[:] = max(deepest, own, key=len)

    sys.setprofile(watch)
    try:
        chat.invoke("Where?", documents=documents)
    finally:
        sys.setprofile(None)
    assert set(pictured()) <= passed
    assert len(deepest) <= 12, deepest


def test_the_architecture_names_what_is_there() -> None:
    named = pictured()
    assert 10 <= len(named) <= 12
    for name in named:
        assert (ROOT / "homer" / name).is_file(), name
    folders = re.findall(r"^\| `(\w+)/`", ARCHITECTURE, re.M)
    assert {"text", "plan", "backends", "merging"} < set(folders)
    assert all((ROOT / "homer" / name).is_dir() for name in folders)
