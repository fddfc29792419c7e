"""homer index and homer ask --store."""

import json
from pathlib import Path

import pytest
from small import damaged

from homer import HomerModel, InputError, StateStore, StoreError, read_documents
from homer.cli import main
from homer.cli.indexing import encode_from_store, estimate, index, indexed_paths
from homer.reuse.encode import budget_for

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


def test_a_damaged_note_is_an_error_and_mended_by_indexing(
    mini: HomerModel, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    index(mini, [folder / "archive.md", folder / "gate.txt"], store)
    note = sorted((store / "sources").glob("*.json"))[0]
    whole = note.read_bytes()
    changed = [damaged(whole, at) for at in range(0, len(whole), 7)]
    for content in (b"", b"{", b"[]", b"{}", b'{"path": 5}', b'{"path": "/other"}', b"\xff", *changed):
        note.write_bytes(content)
        assert main(["ask", "--question", QUESTION, "--store", str(store)]) == 2
        error = capsys.readouterr().err
        assert f"homer: {note} is damaged: remove it" in error
    index(mini, [folder / "archive.md", folder / "gate.txt"], store)
    assert indexed_paths(store) == [folder / "archive.md", folder / "gate.txt"]


def test_a_store_among_other_files(mini: HomerModel, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    index(mini, [folder / "archive.md"], folder)
    assert indexed_paths(folder) == [folder / "archive.md"]
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_every_usual_question_finds_the_index(
    mini: HomerModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "long.txt").write_text("The barn was painted red in spring. " * 200)  # of several leaves
    index(mini, [tmp_path / "long.txt"], tmp_path / "store")
    documents = read_documents([tmp_path / "long.txt"])
    tokens = len(mini.build_prompt("?", documents).context_ids)
    for words in (1, 20, 40, 50):
        question = "Is the barn red? " + "of the " * words
        assert encode_from_store(mini, question, documents, tmp_path / "store").cached_tokens == tokens
        kept = mini.encode_prompt(mini.build_prompt(question, documents), StateStore(tmp_path / "store"))
        assert kept.cached_tokens == tokens  # as chains and the server look
    assert caplog.text == ""
    assert encode_from_store(mini, "barn " * 180, documents, tmp_path / "store").cached_tokens < tokens
    assert "the question takes more than the 128 tokens" in caplog.text


@pytest.mark.parametrize(
    ("lengths", "budget"),
    [
        ((1, 20, 512), 128), ((128, 20, 512), 128), ((129, 20, 512), 236), ((237, 20, 512), 237), ((1, 200, 512), 56),
        ((1, 20, 128), 44), ((1, 20, 256), 64), ((1, 20, 4096), 256), ((257, 20, 4096), 512),
        ((513, 20, 4096), 1024), ((1, 900, 512), 1),
    ],
)  # fmt: skip
def test_the_room_for_a_question(lengths: tuple[int, int, int], budget: int) -> None:
    assert budget_for(*lengths) == budget


def test_what_holds_no_text_is_left_out_of_a_store(
    mini: HomerModel, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "blank.txt").write_text(" \n")
    assert index(mini, [folder / "archive.md", folder / "blank.txt"], tmp_path / "store").documents == 1
    assert caplog.text.count("nothing to encode in blank.txt") == 1
    with pytest.raises(InputError, match=r"none of these files holds any text: blank.txt"):
        index(mini, [folder / "blank.txt"], tmp_path / "store")


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
