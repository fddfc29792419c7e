"""The oldest versions that are tested are the oldest that are allowed."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = re.search(r"homer-integrations\[([\w,-]+)\] @", (ROOT / ".ci" / "run").read_text())[1].split(",")
LINES = (ROOT / "constraints-lowest.txt").read_text().splitlines()
PINNED = dict(line.split("==") for line in LINES if "==" in line)
ALLOWED = [*PROJECT["dependencies"], *(line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra])]


def test_all_that_users_import_is_tested_with_its_oldest() -> None:
    assert {"langchain", "llama-index", "pdf", "serve"} <= set(EXTRAS)
    assert PINNED["torch"] == re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


@pytest.mark.parametrize("requirement", [line for line in ALLOWED if not line.startswith("torch")])
def test_a_lower_bound_is_tested(requirement: str) -> None:
    name, bound = re.match(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)", requirement).groups()
    tested = PINNED[name.replace("_", "-").lower()]
    assert [*map(int, tested.split("."))][: bound.count(".") + 1] == [*map(int, bound.split("."))]
    assert not tested.removeprefix(bound).strip(".0")  # 1.2 stands for 1.2.0
