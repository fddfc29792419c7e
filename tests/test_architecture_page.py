"""The page on the architecture names what is there, and a significance of one's own stays short."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def test_a_significance_of_ones_own_takes_20_lines() -> None:
    block = re.findall(r"```python\n(.*?)```", EXTENDING, re.S)[-1]
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    assert "(Significance):" in block


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
