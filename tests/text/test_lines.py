"""Lines: blocks of code between fences, headings, items, quotations."""

import pytest

from homer.text.units import split_units


def kinds(text: str) -> list[tuple[str, str]]:
    return [(unit.kind, text[unit.start : unit.end]) for unit in split_units(text)]


@pytest.mark.parametrize(
    "code",
    [
        "```python\nx = 1\n\ny = 2\n```",
        "````md\n```py\nx\n```\n````",
        "~~~\na\n\n```\nb\n~~~",
        "```py\nx\n```py\ny\n```",  # what closes says no language
        "1. ```sh\n   ls\n\n   pwd\n   ```",
        "> ```py\n> x\n>\n> y\n> ```",
    ],
)
def test_blocks_of_code_are_whole(code: str) -> None:
    assert kinds(code + "\nEnd.") == [("code", code), ("sentence", "End.")]


def test_code_inside_of_an_item() -> None:
    text = "1. step:\n\n    ```sh\n    ls\n\n    pwd\n    ```\n2. next"
    assert [kind for kind, _ in kinds(text)] == ["item", "code", "item"]


def test_what_opens_no_block() -> None:
    inline = "```ls``` lists files. It is old."
    assert kinds(inline) == [("sentence", "```ls``` lists files."), ("sentence", "It is old.")]
    rest = "y = 2\n```\n\nThe door code is 48213. It rained."  # a text that was cut inside of a block
    assert kinds(rest)[-2:] == [("sentence", "The door code is 48213."), ("sentence", "It rained.")]
    assert kinds("```py\nx = 1\n\ny = 2") == [("code", "```py\nx = 1\n\ny = 2")]  # and one of which the end was cut off
    titles = "One\n~~~~\n\nText of one.\n\nOther\n~~~~~\n\nMore."
    assert [kind for kind, _ in kinds(titles)] == ["heading", "sentence", "heading", "sentence"]


def test_underlined_headings_go_with_what_stands_below() -> None:
    units = split_units("Title\n=====\n\nText here. More.\n\nSub\n---\nText.\n\nRule:\n\n---\n\nEnd.")
    assert [unit.kind for unit in units] == [
        "heading", "sentence", "sentence", "heading", "sentence", "line", "line", "sentence",
    ]  # fmt: skip
    assert [unit.passage for unit in units[:5]] == [0, 0, 0, 1, 1]
    wrapped = (
        "The committee met on the third floor of the old house in\norder to speak about the roof, which leaks\n------"
    )
    assert "heading" not in [unit.kind for unit in split_units(wrapped)]


def test_quotations() -> None:
    text = (
        "> The committee met on the third floor of the old house in\n> order to speak about the roof.\n>\n"
        "> Nobody came.\n\nFine."
    )
    units = split_units(text)
    assert [unit.passage for unit in units] == [0, 1, 2]
    assert text[units[0].start : units[0].end].endswith("the roof.\n>")
    assert kinds(">") == [("line", ">")]


def test_any_line_break_ends_a_line() -> None:
    assert [text for _, text in kinds("one\u2028two\x0cthree\r\nfour\rfive\u2029six\x85seven")] == [
        "one", "two", "three", "four", "five", "six", "seven",
    ]  # fmt: skip


def test_items() -> None:
    text = "- one\n  - two. Yes.\n    more of two\n(1) three\n\u25aa four\na) five\n10. six"
    assert [kind for kind, _ in kinds(text)] == ["item"] * 6
    assert kinds(text)[1] == ("item", "- two. Yes.\n    more of two")
