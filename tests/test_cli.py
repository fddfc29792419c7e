import json
from pathlib import Path

import pytest

from homer.cli import main
from homer.demo import DOCUMENTS, load_questions
from homer.files import read_documents

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
        ([str(folder / "office.md"), "--target-len", "1"], "target_len=1 is too small"),
    ):
        assert main(["ask", "--question", "Why?", *arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("homer: ")
        assert words in lines[-1]


def test_pdf(tmp_path: Path) -> None:
    stream = f"BT /F1 12 Tf 20 100 Td ({FACT}) Tj ET"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 400 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, places = "%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"xref\n0 6\n0000000000 65535 f \n{table}trailer<</Root 1 0 R/Size 6>>\nstartxref\n{len(body)}\n%%EOF"
    (tmp_path / "a.pdf").write_text(body + end)
    assert FACT in read_documents([tmp_path])[0]["text"]


def test_the_demos_documents_hold_its_answers() -> None:
    documents = {document["title"]: document["text"] for document in read_documents([DOCUMENTS])}
    assert len(documents) >= 12
    questions = load_questions()
    assert len(questions) >= 4
    for question in questions:
        assert question.answer in documents[question.document]
