"""Batch: a file of questions to a file of answers, which a killed run leaves whole and the next one goes on with."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

from homer import Answer, HomerError, HomerModel, InputError, read_documents
from homer_integrations._documents import to_homer_documents
from homer_integrations._ray import without_reports

_KEYS = {"id", "question", "documents"}


@dataclasses.dataclass(frozen=True)
class Batch:
    """What all questions share. It travels between processes.

    Attributes:
        model: arguments of HomerModel.from_pretrained; `model` is its name.
        config: fields of HomerConfig.
        documents: files and folders; none where every question brings its own.
        system: the system message; None for the library's own.
        max_tokens: most new tokens of an answer.
    """

    model: dict[str, Any]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    documents: Sequence[Path] = ()
    system: str | None = None
    max_tokens: int | None = None


@dataclasses.dataclass
class Report:
    """How a run went, in questions."""

    total: int
    before: int
    answered: int = 0
    failed: int = 0

    def __str__(self) -> str:
        text = f"{self.answered} of {self.total} questions answered now, {self.before} before"
        return f"{text}, {self.failed} failed: see 'error' in their rows" if self.failed else text


class Answerer:
    """Answers rows, one after the other, with one model; Ray Data makes one in every worker."""

    def __init__(self, batch: Batch) -> None:
        options = dict(batch.model)
        self._batch = batch
        self._model = HomerModel.from_pretrained(options.pop("model"), **options)
        self._config = dataclasses.replace(self._model.config, **batch.config)
        self._documents = to_homer_documents(read_documents(batch.documents)) if batch.documents else ()

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its answer, or with the error that kept it from one."""
        try:
            documents = (*self._documents, *to_homer_documents(row.get("documents") or ()))
            answer = self._model.ask(
                row["question"],
                documents,
                system=self._batch.system,
                config=self._config,
                max_new_tokens=self._batch.max_tokens,
            )
        except HomerError as error:
            return {"id": row["id"], "question": row["question"], "error": str(error)}
        return {"id": row["id"], "question": row["question"]} | _facts(answer)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        """A batch of Ray Data's: JSON in, JSON out."""
        return {"row": [json.dumps(self.answer(json.loads(row))) for row in rows["row"]]}


def run_batch(
    batch: Batch,
    questions: Path,
    out: Path,
    workers: int | None = None,
    gpus: float = 0,
    *,
    progress: bool = False,
) -> Report:
    """Answer every question that `out` does not answer yet; each answer is on the disk before the next is begun.

    Args:
        workers: None answers in this process; else so many copies of the model, by Ray Data.
        gpus: for each of them.

    Raises:
        InputError: questions that cannot be read, or a file of other answers.
    """
    rows = read_questions(questions)
    with _opened(out) as file:
        done = _answered(file, out, rows)
        left = [row for row in rows if row["id"] not in done]
        report = Report(len(rows), len(done))
        answers = _in_process(batch, left) if workers is None else _on_ray(batch, left, workers, gpus)
        for answer in tqdm(answers, total=len(left), desc="answering", unit="question", disable=not progress):
            file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            report.failed += "error" in answer
            report.answered += "error" not in answer
    return report


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Rows with id, question and maybe documents; a row without an id has the number of its line.

    Raises:
        InputError: no such file, a line that is no such row, or an id that comes twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): give a JSON lines file of questions in UTF-8") from None
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    seen: set[str | int] = set()
    for row in rows:
        if row["id"] in seen:
            raise InputError(f"{path} has the id {row['id']!r} twice: give every question an id of its own, or none")
        seen.add(row["id"])
    if not rows:
        raise InputError(f"{path} holds 0 questions: give at least one line of JSON with 'question'")
    return rows


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"line {number} of {path} is no JSON ({error}): give an object with 'question'") from None
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise InputError(f"line {number} of {path} has no string under 'question': give one")
    unknown = sorted(set(row) - _KEYS)
    if unknown:
        raise InputError(f"line {number} of {path} has a key {unknown[0]!r}: only {', '.join(sorted(_KEYS))} are read")
    name = row.get("id", number)
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise InputError(f"line {number} of {path} has the id {name!r}: give a string or a whole number")
    return row | {"id": name}


@contextmanager
def _opened(out: Path) -> Iterator[IO[bytes]]:
    """The file of answers, for this run alone."""
    try:
        file = out.open("a+b")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): give a file in a folder that is there") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is writing {out}: wait for it, or give another --out") from None
        yield file


def _answered(file: IO[bytes], out: Path, rows: Sequence[Mapping[str, Any]]) -> set[str | int]:
    """Ids answered already; half a line, which a killed run may leave at the end, is cut off."""
    file.seek(0)
    content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    file.truncate(len(whole))
    asked = {row["id"]: row["question"] for row in rows}
    done: set[str | int] = set()
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
            name, question = row["id"], row["question"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"line {number} of {out} is no answer of a batch: give another --out") from None
        if asked.get(name) != question:
            raise InputError(
                f"line {number} of {out} answers {question!r:.80} for id {name!r}, which is not asked here: give "
                f"another --out, or the same questions again"
            )
        done.add(name)
    return done


def _in_process(batch: Batch, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if rows:
        yield from map(Answerer(batch).answer, rows)


def _on_ray(batch: Batch, rows: Sequence[dict[str, Any]], workers: int, gpus: float) -> Iterator[dict[str, Any]]:
    """The same by Ray Data; answers come as they are ready, whatever their order."""
    if not rows:
        return
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise InputError(f"{error}: pip install homer-integrations[ray]") from None
    without_reports()
    items = ray.data.from_items([{"row": json.dumps(row)} for row in rows], override_num_blocks=len(rows))
    answers = items.map_batches(
        Answerer, fn_constructor_args=(batch,), batch_size=1, concurrency=min(workers, len(rows)), num_gpus=gpus or None
    )
    for item in answers.iter_rows():
        yield json.loads(item["row"])


def _facts(answer: Answer) -> dict[str, Any]:
    """What a row says of an answer; the documents are known, so passages are given by their characters."""
    facts = answer.to_dict()
    for source in facts["sources"]:
        source["passages"] = [{k: v for k, v in p.items() if k not in ("text", "spans")} for p in source["passages"]]
    return {"answer": answer.text} | {name: facts[name] for name in ("finish_reason", "usage", "sources")}
