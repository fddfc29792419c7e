"""What is JSON as a whole."""

import pytest

from homer_integrations.shared.jsons import is_json


@pytest.mark.parametrize("text", ["{}", b'{"a": [1]}', '"\u00e9"', "null"])
def test_whole_texts_are_json(text: str | bytes) -> None:
    assert is_json(text)


@pytest.mark.parametrize("text", ["", '{"a": [1', b"\xff", "{} {}", "[" * 200_000])
def test_cut_or_unreadable_texts_are_none(text: str | bytes) -> None:
    assert not is_json(text)
