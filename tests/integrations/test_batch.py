"""homer batch: rows to rows, and nothing lost or done twice when it is killed."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from homer import HomerModel, read_documents
from homer.cli import main
from homer.demo import DOCUMENTS
from homer_integrations.batch import Batch
from homer_integrations.batch.files import opened_answers, read_questions

FACTS = {"north": "48213", "south": "90417", "east": "35528", "west": "71960"}
QUESTIONS = [{"id": gate, "question": f"What is the door code for the {gate} gate?"} for gate in FACTS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "documents").mkdir()
    for gate, code in FACTS.items():
        (tmp_path / "documents" / f"{gate}.txt").write_text(f"The door code for the {gate} gate is {code}.")
    return tmp_path


def ask(folder: Path, questions: list[Any], *options: str) -> int:
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return main(arguments(folder, *options))


def arguments(folder: Path, *options: str) -> list[str]:
    names = [
        str(folder / "questions.jsonl"),
        "--documents",
        str(folder / "documents"),
        "--out",
        str(folder / "a.jsonl"),
    ]
    return ["batch", *names, "--max-tokens", "16", "--no-progress", *options]


def expected(mini: HomerModel, folder: Path, question: str, more: Sequence[Any] = ()) -> str:
    """What the library answers, right or wrong: that a batch says the same is what is tested here."""
    documents = read_documents([folder / "documents"])
    return mini.ask(question, [*documents, *more], max_new_tokens=16).text


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "a.jsonl").read_text().splitlines()]


def test_every_question_is_answered_once(mini: HomerModel, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(folder, QUESTIONS) == 0
    answers = rows(folder)
    assert [row["id"] for row in answers] == list(FACTS)
    assert [row["answer"] for row in answers] == [expected(mini, folder, row["question"]) for row in QUESTIONS]
    assert answers[0]["usage"]["input_tokens"] > 50
    assert {source["title"] for source in answers[0]["sources"]} == {f"{gate}.txt" for gate in FACTS}
    assert "4 of 4 questions answered now, 0 before" in capsys.readouterr().err
    before = (folder / "a.jsonl").read_bytes()
    assert main(arguments(folder, "--model", "no/such/model")) == 0  # nothing is left to do, so none is loaded
    assert "0 of 4 questions answered now, 4 before" in capsys.readouterr().err
    assert (folder / "a.jsonl").read_bytes() == before


def test_a_row_may_bring_documents_and_a_bad_one_fails_alone(
    mini: HomerModel, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [{"text": "The door code for the inner gate is 66301."}]
    asked = [
        {"question": "What is the door code for the inner gate?", "documents": more},
        {"question": "Why?", "documents": [{"title": "no text"}]},
        QUESTIONS[0],
    ]
    assert ask(folder, asked) == 1
    assert "1 failed: see 'error' in their rows" in capsys.readouterr().err
    first, second, third = rows(folder)
    assert (first["id"], first["answer"]) == (1, expected(mini, folder, asked[0]["question"], more))
    assert len(first["sources"]) == len(FACTS) + 1
    assert (second["id"], list(second)) == (2, ["id", "question", "error"])
    assert "document 1" in second["error"]
    assert third["answer"] == expected(mini, folder, QUESTIONS[0]["question"])


def test_killed_in_the_middle_the_rerun_finishes(folder: Path) -> None:
    """On a long document and of more questions than run at a time, so that there is a middle."""
    asked = [{"id": n, "question": f"What is the cutover date? ({n})"} for n in range(20)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    long = DOCUMENTS / "05-mail-orrin-migration.md"
    command = [sys.executable, "-m", "homer", *arguments(folder), "--documents", str(long)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    out = folder / "a.jsonl"
    end = time.monotonic() + 120
    while not (out.exists() and out.read_bytes().count(b"\n") >= 1):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = out.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    assert kept.count(b"\n") < 20
    out.write_bytes(kept + b'{"id": 19, "quest')
    assert main(command[3:]) == 0
    assert out.read_bytes().startswith(kept)
    assert [row["id"] for row in rows(folder)] == list(range(20))
    assert all("answer" in row for row in rows(folder))


def test_a_file_of_other_answers_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(folder, QUESTIONS[:1]) == 0
    before = (folder / "a.jsonl").read_bytes()
    assert ask(folder, [{"id": "north", "question": "Another?"}]) == 2
    assert "which is not asked here" in capsys.readouterr().err
    (folder / "notes.txt").write_text("Not answers.\n")
    assert ask(folder, QUESTIONS, "--out", str(folder / "notes.txt")) == 2
    assert "line 1 of" in capsys.readouterr().err
    assert (folder / "notes.txt").read_text() == "Not answers.\n"
    assert (folder / "a.jsonl").read_bytes() == before
    with opened_answers(folder / "a.jsonl", QUESTIONS, ()):
        assert ask(folder, QUESTIONS[:1]) == 2
    assert "another run is writing" in capsys.readouterr().err
    assert ask(folder, QUESTIONS, "--out", str(folder / "none" / "a.jsonl")) == 2


ROW = json.dumps(QUESTIONS[0])[:-1]


@pytest.mark.parametrize(
    "content",
    [
        "Notes that nobody may touch",  # without a line end, as editors leave it
        "Notes\nthat nobody may touch",
        '{"setting": 1}',
        "[]",
        "12",
        ROW + "}",  # a question is no answer
        ROW + "}\n",
        ROW + ', "answer": "48213"}\nand notes',
        '{"id": "north", "question": "Another?", "answer": "1"}',
        '{"id": "north", "question": "Anoth',
        '{"id": ["north"], "question": "Why?", "answer": "1"}\n',
        "[" * 100_000,
        "\0" * 10,
    ],
)
def test_nothing_is_written_to_a_file_that_is_not_ours(folder: Path, content: str) -> None:
    (folder / "a.jsonl").write_text(content)
    assert ask(folder, QUESTIONS) == 2
    assert (folder / "a.jsonl").read_text() == content


def test_answers_never_go_into_what_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "link").symlink_to(folder / "questions.jsonl")
    (folder / "hard").write_text("")
    (folder / "hard").unlink()
    text = "\n".join(map(json.dumps, QUESTIONS))  # no line end behind the last
    (folder / "questions.jsonl").write_text(text)
    os.link(folder / "questions.jsonl", folder / "hard")
    for name in ("questions.jsonl", "link", "hard"):
        assert main(arguments(folder, "--out", str(folder / name))) == 2
        assert "is the same file as" in capsys.readouterr().err
        assert (folder / "questions.jsonl").read_text() == text
    north = folder / "documents" / "north.txt"
    assert main(arguments(folder, "--documents", str(north), "--out", str(north))) == 2
    assert north.read_text() == "The door code for the north gate is 48213."
    assert main(arguments(folder, "--out", os.devnull)) == 2
    assert "no regular file" in capsys.readouterr().err


def test_cut_off_anywhere_the_rerun_finishes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [{"id": "é", "question": "Où?"}, {"id": 2, "question": "\ud800?"}]
    monkeypatch.setattr("homer_integrations.batch.run.Answerer", Echo)
    assert ask(folder, asked) == 0
    whole = (folder / "a.jsonl").read_bytes()
    assert [row["id"] for row in rows(folder)] == ["é", 2]
    for end in range(len(whole)):
        (folder / "a.jsonl").write_bytes(whole[:end])
        assert ask(folder, asked) == 0, whole[:end]
        assert (folder / "a.jsonl").read_bytes() == whole


class Echo:
    """Answers every question by itself."""

    def __init__(self, *_: Any) -> None:
        pass

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], "question": row["question"], "answer": row["question"]}


def test_any_error_is_a_row_and_the_others_are_answered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    bad = [
        '{"id": "half", "question": "\\ud800?"}',
        json.dumps({"id": "control", "question": "<|end|>" * 1500}),
        json.dumps({"id": "metadata", "question": "Why?", "documents": [{"text": "a", "metadata": "s"}]}),
        json.dumps({"id": "nested", "question": "Why?", "documents": json.loads(deep[:400] + deep[-400:])}),
        f'{{"id": "deep", "question": "Why?", "documents": {deep}}}',
    ]
    lines = [*bad, json.dumps(QUESTIONS[0])]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    main(arguments(folder))
    found = {row["id"]: row for row in rows(folder)}
    assert list(found) == ["half", "control", "metadata", "nested", 5, "north"]
    assert "answer" in found["north"]
    assert "nested too deep" in found[5]["error"]
    assert all(("error" in row) != ("answer" in row) for row in found.values())
    before = (folder / "a.jsonl").read_bytes()
    assert main(arguments(folder)) in (0, 1)
    assert (folder / "a.jsonl").read_bytes() == before


def test_an_error_that_nobody_thought_of(
    mini: HomerModel, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(model: HomerModel, question: str, *args: Any, **options: Any) -> Any:
        if "south" in question:
            raise RuntimeError("out of memory")
        return mini_build(model, question, *args, **options)

    mini_build = HomerModel.build_prompt
    monkeypatch.setattr(HomerModel, "build_prompt", fail)
    assert ask(folder, QUESTIONS[:3]) == 1
    assert [row.get("error") for row in rows(folder)] == [None, "RuntimeError: out of memory", None]
    assert "2 of 3 questions answered now" in capsys.readouterr().err


def test_questions_and_answers_are_no_documents_and_strict_is_strict(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def remember(batch: Batch, documents: Any) -> Echo:
        seen.append([document.title for document in documents])
        return Echo()

    seen: list[list[str]] = []
    monkeypatch.setattr("homer_integrations.batch.run.Answerer", remember)
    assert ask(folder, QUESTIONS[:1], "--documents", str(folder)) == 0
    (folder / "photo.jpg").write_bytes(b"\xff")
    assert ask(folder, QUESTIONS, "--documents", str(folder)) == 0
    assert capsys.readouterr().err.strip().endswith("photo.jpg - is of a kind that is not read")
    assert seen == [[f"{gate}.txt" for gate in sorted(FACTS)]] * 2  # given by the first --documents, and once
    (folder / "a.jsonl").unlink()
    assert ask(folder, QUESTIONS, "--documents", str(folder), "--strict") == 2
    assert "without strict" in capsys.readouterr().err


def test_questions_from_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homer_integrations.batch.run.Answerer", Echo)
    text = json.dumps({"question": "Où?"}, ensure_ascii=False)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["batch", "-", "--out", str(folder / "a.jsonl"), "--no-progress"]) == 0
    assert [row["question"] for row in rows(folder)] == ["Où?"]


def test_a_line_ends_with_a_line_feed_only(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    asked = [f"Why{sign}now?" for sign in "\u2028\u2029\x85\x0b\x0c\x1c"]
    text = "\r\n".join(json.dumps({"question": question}, ensure_ascii=False) for question in asked)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [row["question"] for row in read_questions(path)] == asked


def test_it_works_where_fcntl_is_missing() -> None:
    source = "import sys; sys.modules['fcntl'] = None; import homer_integrations.batch"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds 0 questions"),
        ("{", "line 1 of"),
        ('{"question": 1}', "no string under 'question'"),
        ('{"question": "a", "answer": "b"}', "key 'answer'"),
        ('{"question": "a", "id": 1.5}', "has the id 1.5"),
        ('{"question": "a", "id": 2}\n{"question": "b"}', "id 2 twice"),
    ],
)
def test_questions_that_cannot_be_read(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "q.jsonl").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_questions(tmp_path / "q.jsonl")
    with pytest.raises(ValueError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl")


@pytest.mark.slow
def test_by_ray_data(mini: HomerModel, folder: Path) -> None:
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (folder / "a.jsonl").write_text(json.dumps(QUESTIONS[0] | {"answer": "from before"}) + "\n")
    command = [sys.executable, "-m", "homer", *arguments(folder), "--ray", "2"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    answers = {row["id"]: row["answer"] for row in rows(folder)}
    right = {row["id"]: expected(mini, folder, row["question"]) for row in QUESTIONS[1:]}
    assert answers == right | {"north": "from before"}
    assert len(rows(folder)) == 4
