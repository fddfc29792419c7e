import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from serving import pdf_of
from small import save_small

import homer
from homer import HomerModel, load_calibration
from homer.cli import main
from homer.demo import DOCUMENTS, load_questions, run_demo
from homer.experiments import save_calibration
from homer.text.files import read_documents

FACT = "The door code for the north gate is 48213."
TEXTS = [document["text"] for document in read_documents([DOCUMENTS])]
QUESTION = "What is the door code for the north gate?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "garden.txt").write_text(TEXTS[3][:1000])
    (tmp_path / "office.md").write_text(f"{TEXTS[0][:2500]}\n\n{FACT}\n\n{TEXTS[1][:2500]}")
    return tmp_path


def test_ask_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--question", QUESTION, str(folder / "garden.txt"), str(folder / "office.md")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("48213\n")
    assert "office.md" in out
    assert FACT in out
    assert "compressing" in err


def test_ask_a_folder_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder.parent / "answer.html"
    options = ["--json", "--no-progress", "--max-chunk-len", "512", "--max-new-tokens", "20", "--html", str(page)]
    assert main(["ask", str(folder), "--question", QUESTION, *options]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer["text"] == "48213"
    assert answer["usage"]["kept_tokens"] <= 512
    assert {source["title"] for source in answer["sources"]} == {"garden.txt", "office.md"}
    assert "chunk" not in err
    assert "trace" not in answer
    assert "office.md" in page.read_text()


def test_bad_input_is_one_line_and_status_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "broken.pdf").write_bytes(b"no pdf")
    for arguments, words in (
        (["none.txt"], "no file at none.txt"),
        ([str(folder / "latin.txt")], "no UTF-8 text (byte 3)"),
        ([str(folder / "broken.pdf")], "cannot be read as a PDF"),
        ([str(folder / "office.md"), "--model", "no/such"], "cannot load"),
        ([str(folder / "office.md"), "--target-len", "1"], "target_len=1 is out of range"),
    ):
        assert main(["ask", "--question", "Why?", *arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("homer: ")
        assert words in lines[-1]


def test_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_of(FACT))
    assert FACT in read_documents([tmp_path])[0]["text"]


def test_the_demos_documents_hold_its_answers() -> None:
    documents = {document["title"]: document["text"] for document in read_documents([DOCUMENTS])}
    assert len(documents) >= 12
    questions = load_questions()
    assert len(questions) >= 4
    for question in questions:
        assert question.answer in documents[question.document]


def test_a_calibration_is_found_in_the_folder_that_calibrate_wrote(
    mini: HomerModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mini.calibration is not None
    save_calibration(mini.calibration, tmp_path / "cal", {})
    assert load_calibration(tmp_path / "cal").distances == mini.calibration.distances
    (tmp_path / "a.txt").write_text(FACT)
    options = ["--calibration", str(tmp_path / "cal"), "--no-progress", "--max-new-tokens", "8"]
    assert main(["ask", str(tmp_path / "a.txt"), "--question", QUESTION, *options]) == 0
    assert capsys.readouterr().out.startswith("48213\n")
    assert main(["ask", str(tmp_path / "a.txt"), "--question", QUESTION, "--calibration", str(tmp_path)]) == 2
    assert "no calibration at" in capsys.readouterr().err


def test_what_is_skipped_is_said_last_and_strict_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photo.jpg").write_bytes(b"\xff")
    options = ["--question", QUESTION, "--no-progress", "--max-new-tokens", "8"]
    assert main(["ask", str(folder), *options]) == 0
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1] == f"homer: skipped 1 file: {folder / 'photo.jpg'} - is of a kind that is not read"
    for command in (["ask", *options], ["index", "--out", str(folder.parent / "store"), "--no-progress"]):
        assert main([command[0], str(folder), "--strict", *command[1:]]) == 2
        assert "without strict" in capsys.readouterr().err


def test_a_drawing_never_overwrites_a_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "page.html"
    page.write_text("<p>ours</p>")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for target in (page, folder / "office.md"):
        for given in (folder, target):
            assert main(["ask", str(given), "--question", "Why?", "--html", str(target)]) == 2
            assert "is one of the files that are read" in capsys.readouterr().err
    assert main(["ask", str(folder), "--question", "Why?", "--html", str(folder / "none" / "a.html")]) == 2
    assert "in a folder that is not there" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    page.unlink()
    for _ in range(2):  # its own drawing is no document, and may be drawn again
        options = ["--html", str(page), "--max-new-tokens", "2", "--no-progress", "--json"]
        assert main(["ask", str(folder), "--question", "Why?", *options]) == 0
        assert len(json.loads(capsys.readouterr().out)["sources"]) == 2
    with pytest.raises(SystemExit):
        main(["passkey", "--write-data"])
    assert main(["passkey", "--filler", str(page), "--write-data", str(page)]) == 2
    assert "is one of the files that are read" in capsys.readouterr().err


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What a shell makes of it; `homer` is this one."""
    command = f'set -o pipefail; homer() {{ {sys.executable} -m homer "$@"; }}; {command}'
    place = {"PYTHONPATH": str(Path(homer.__file__).parents[1])}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, check=False, env=os.environ | place | environment, timeout=300
    )


def test_pipes_and_terminals(tmp_path: Path) -> None:
    """One process each: a document from a pipe, an answer that is not read, and a terminal that knows ASCII only."""
    ask = f"ask - --question '{QUESTION}' --no-progress --max-new-tokens 8"
    done = shell(f"echo '{FACT} Grüße \u2028' | homer {ask}", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"48213\n")
    assert rb"Gr\xfc\xdfe" in done.stdout
    done = shell("homer --help | true; echo ${PIPESTATUS[0]}")
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_whoever_reads_may_stop_reading(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(_: object) -> int:
        print("x" * 100_000, flush=True)
        return 0

    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("homer.cli.running.run_demo", write)
    with open(writer, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        assert main(["demo"]) == 1
        print("and nothing is raised later")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "/root/x"), "homer: /root/x: Permission denied"),
        (OSError(28, "No space left on device"), "homer: No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, words: str
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr("homer.cli.running.run_demo", fail)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.startswith(words)


def test_the_demo_asks_a_model_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(save_small(tmp_path, layers=2)), "--max-chunk-len", "200", "--target-len", "150"]
    assert main(["demo", *options, "--significance", "paper"]) == 1  # random weights know no answer
    out = capsys.readouterr().out
    assert "80 times the model's window of 256." in out
    assert "compressed to 150 in" in out
    assert "0 of 5 answers right." in out


def test_the_demo_says_where_nothing_is_compressed(mini: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homer.demo.load_questions", lambda: [])
    lines: list[str] = []
    run_demo(HomerModel(mini.model, mini.tokenizer), lines.append)
    assert "20 times the model's window of 1,024." in lines[0]
    wide = HomerModel.from_pretrained("mini", max_position_embeddings=32_768)
    run_demo(wide, lines.append)
    assert "they fit the model's window of 32,768, and nothing is compressed." in lines[2]


def test_files_shortened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(folder / "garden.txt"), str(folder / "office.md")]
    assert main(["compress", *files, "--question", QUESTION, "--max-tokens", "40", "--no-progress"]) == 0
    out, err = capsys.readouterr()
    assert FACT in out
    assert "office.md\n" in out
    assert "tokens shortened to" in err
    assert main(["compress", *files, "--question", QUESTION, "--top-k", "1", "--json", "--no-progress"]) == 0
    short = json.loads(capsys.readouterr().out)
    assert short["indices"] == [1]
    assert len(short["scores"]) == 2
    assert main(["compress", *files, "--question", QUESTION, "--top-k", "1", "--max-tokens", "9"]) == 2
    assert "2 budgets are given" in capsys.readouterr().err
