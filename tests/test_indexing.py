"""homer index and homer ask --store."""

import json
from pathlib import Path

import pytest

from homer import HomerModel, StoreError
from homer.cli import main
from homer.indexing import estimate, index

FACT = "The door code for the northern archive is 48213."
QUESTION = "What is the door code for the northern archive?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "gate.txt").write_text("The north gate closes at dusk. " * 60)
    (folder / "archive.md").write_text(f"# The archive\n\n{FACT}")
    (folder / "barn.md").write_text("The barn was painted red in spring. " * 50)
    return folder


def test_index_and_ask(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "store")
    assert main(["index", str(folder), "--out", store]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("3 documents, ")
    assert "GB free" in out
    assert "encoding" in err
    files = {path: path.stat().st_ino for path in Path(store).glob("*/*.safetensors")}
    assert main(["index", str(folder), "--out", store, "--no-progress"]) == 0  # nothing is written again
    assert {path: path.stat().st_ino for path in Path(store).glob("*/*.safetensors")} == files
    capsys.readouterr()
    ask = ["ask", "--question", QUESTION, "--store", store, "--no-progress", "--max-new-tokens", "8", "--json"]
    assert main(ask) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == "48213"
    assert {source["title"] for source in answer["sources"]} == {"gate.txt", "archive.md", "barn.md"}
    usage = answer["usage"]
    assert 0.9 * usage["input_tokens"] < usage["cached_tokens"] < usage["input_tokens"]
    (folder / "barn.md").write_text("The barn was painted blue in spring. " * 50)  # only what changed is encoded
    assert main(ask) == 0
    changed = json.loads(capsys.readouterr().out)["usage"]["cached_tokens"]
    assert 0 < changed < usage["cached_tokens"]


def test_the_estimate_is_what_the_store_takes(mini: HomerModel, folder: Path, tmp_path: Path) -> None:
    size = index(mini, [folder], tmp_path / "store")
    taken = sum(path.stat().st_size for path in (tmp_path / "store").glob("*/*.safetensors"))
    assert size.documents == 3
    assert taken == pytest.approx(size.nbytes, rel=0.02)
    assert estimate(mini, [FACT], tmp_path / "not" / "there", mini.config).nbytes < size.nbytes


def test_what_cannot_be(mini: HomerModel, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StoreError, match="will not fit 1,000"):
        index(mini, [folder], tmp_path / "store", disk_bytes=1000)
    assert list((tmp_path / "store").glob("*/*")) == []
    assert main(["ask", "--question", QUESTION]) == 2
    assert "0 files: give files or folders, or a --store" in capsys.readouterr().err
    assert main(["ask", "--question", QUESTION, "--store", str(tmp_path / "store")]) == 2
    assert "no store with indexed documents" in capsys.readouterr().err
    assert main(["index", str(folder), "--out", str(folder / "barn.md")]) == 2
    assert "no store can be made at" in capsys.readouterr().err
