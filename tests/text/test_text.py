"""Token ids as users give them, and the text of single files."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from homer import InputError
from homer.text.ids import check_ids
from homer.text.readers import STDIN, TEXT_SUFFIXES, UnreadableError, read_file


@pytest.mark.parametrize("given", [[1, 2, 3], (1, 2, 3), torch.tensor([[1, 2, 3]]), torch.tensor([1, 2, 3]).int()])
def test_ids_come_in_one_shape(given: Any) -> None:
    found = check_ids("ids", given, 4)
    assert (found.tolist(), found.dtype) == ([1, 2, 3], torch.long)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1, 4], "holds the id 4, but the vocabulary has 4"),
        ([-1], "holds the id -1"),
        ([[1], [2]], r"has shape \(2, 1\)"),
        ([0.5], "dtype torch.float32"),
        ("text", "no sequence of token ids"),
    ],
)
def test_what_are_no_ids_is_refused(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_ids("ids", given, 4)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_is_read_by_its_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Grüße".encode(encoding))
    assert read_file(path) == "Grüße"
    assert path.suffix in TEXT_SUFFIXES


def test_what_is_no_text_says_where(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(UnreadableError, match=r"is no UTF-8 text \(byte 3\)"):
        read_file(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(b"a\0b")
    with pytest.raises(UnreadableError, match="holds a zero at character 1"):
        read_file(tmp_path / "b.txt")
    with pytest.raises(UnreadableError, match="cannot be read"):
        read_file(tmp_path / "none.txt")


def test_a_web_page_is_read_in_the_encoding_that_it_names(tmp_path: Path) -> None:
    page = '<html><head><meta charset="iso-8859-1"></head><body><p>Grüße</p></body></html>'
    (tmp_path / "a.html").write_bytes(page.encode("latin-1"))
    assert "Grüße" in read_file(tmp_path / "a.html")


def test_standard_input_is_read_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"said")))
    assert read_file(STDIN) == "said"
