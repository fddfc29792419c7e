"""homer batch: rows to rows, and nothing lost or done twice when it is killed."""

import fcntl
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
from homer_integrations.batch import read_questions

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
    """On long documents, so that there is a middle."""
    asked = [{"id": n, "question": f"What is the cutover date? ({n})"} for n in range(4)]
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
    assert kept.count(b"\n") < 4
    out.write_bytes(kept + b'{"id": 3, "quest')
    assert main(command[3:]) == 0
    assert out.read_bytes().startswith(kept)
    assert [row["id"] for row in rows(folder)] == [0, 1, 2, 3]
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
    with (folder / "a.jsonl").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert ask(folder, QUESTIONS) == 2
    assert "another run is writing" in capsys.readouterr().err
    assert ask(folder, QUESTIONS, "--out", str(folder / "none" / "a.jsonl")) == 2


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
