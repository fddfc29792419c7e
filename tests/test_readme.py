"""The README: short, and its two commands first. That its examples run is tests/test_docs.py's matter."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_it_can_be_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) <= 150


def test_the_two_commands_come_first() -> None:
    code = re.findall(r"^```\w*\n(.*?)^```", README, re.S | re.M)
    assert code[0].startswith("make demo ")
    assert "\nmake test " in code[0]
    assert "right." in code[1]


def test_it_shows_every_way_in() -> None:
    for word in ("HomerModel", "ChatHomer", "HomerQueryEngine", "/v1/chat/completions", "homer ask", "another package"):
        assert word in README


def test_nothing_is_left_to_fill_in() -> None:
    assert "@" + "DEMO@" not in README
