"""Batch: a file of questions to a file of answers, which a killed run leaves whole and the next one goes on with."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from homer import Answer, Document, HomerError, HomerModel, InputError, read_documents
from homer_integrations.batch.files import opened_answers, read_questions
from homer_integrations.shared.documents import to_homer_documents
from homer_integrations.shared.ray import without_reports

logger = logging.getLogger(__name__)

_TOGETHER = 8  # questions under way at once


@dataclasses.dataclass(frozen=True)
class Batch:
    """What all questions share. It travels between processes.

    Attributes:
        model: arguments of HomerModel.from_pretrained; `model` is its name.
        config: fields of HomerConfig.
        documents: files and folders; none where every question brings its own.
        system: the system message; None for the library's own.
        max_tokens: most new tokens of an answer.
        strict: a file below a folder of documents that cannot be read is an error.
    """

    model: dict[str, Any]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    documents: Sequence[Path] = ()
    system: str | None = None
    max_tokens: int | None = None
    strict: bool = False


@dataclasses.dataclass
class Report:
    """How a run went, in questions; `skipped` says which files below folders were not read, and why."""

    total: int
    before: int
    answered: int = 0
    failed: int = 0
    skipped: str = ""

    def __str__(self) -> str:
        return f"{self._counts()}\n{self.skipped}" if self.skipped else self._counts()

    def _counts(self) -> str:
        text = f"{self.answered} of {self.total} questions answered now, {self.before} before"
        return (
            f"{text}, {self.failed} failed: see 'error' in their rows, and remove those to ask again"
            if self.failed
            else text
        )


class Answerer:
    """Answers rows with one model, from any number of threads; Ray Data makes one in every worker.

    Prompts are read one at a time, since reading takes most of the memory; what is generated goes together.
    """

    def __init__(self, batch: Batch, documents: tuple[Document, ...]) -> None:
        options = dict(batch.model)
        self._batch = batch
        self._model = HomerModel.from_pretrained(options.pop("model"), **options)
        self._config = dataclasses.replace(self._model.config, **batch.config)
        self._documents = documents
        self._reads = threading.Lock()

    def answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with its answer, or with the error that kept it from one: no row keeps others from theirs."""
        if "error" in row:
            return dict(row)
        try:
            documents = (*self._documents, *to_homer_documents(row.get("documents") or ()))
            answer = self._ask(row["question"], documents)
        except HomerError as error:
            return {"id": row["id"], "question": row["question"], "error": str(error)}
        except Exception as error:
            logger.warning("question %r failed", row["id"], exc_info=True)
            return {"id": row["id"], "question": row["question"], "error": f"{type(error).__name__}: {error}"}
        return {"id": row["id"], "question": row["question"]} | _facts(answer)

    def _ask(self, question: str, documents: Sequence[Document]) -> Answer:
        prompt = self._model.build_prompt(question, documents, system=self._batch.system)
        stream = self._model.stream_prompt(prompt, config=self._config, max_new_tokens=self._batch.max_tokens)
        with self._reads:
            next(stream.parts(), "")  # maybe of a thought, which goes on with others
        return stream.answer()

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
    """Answer every question that `out` does not answer yet; a run that is killed loses the few that are under way.

    Args:
        workers: None answers in this process; else so many copies of the model, by Ray Data.
        gpus: for each of them.

    Raises:
        InputError: questions that cannot be read, or a file of other answers.
    """
    rows = read_questions(questions)
    with opened_answers(out, rows, (questions, *batch.documents)) as file:
        left = [row for row in rows if row["id"] not in file.done]
        report = Report(len(rows), len(file.done))
        if not left:
            return report
        documents = _documents(batch, (questions, out), report)
        answerer = _in_process(batch, documents, left)
        answers = answerer if workers is None else _on_ray(batch, documents, left, workers, gpus)
        for answer in tqdm(answers, total=len(left), desc="answering", unit="question", disable=not progress):
            file.add(answer)
            report.failed += "error" in answer
            report.answered += "error" not in answer
    return report


def _in_process(
    batch: Batch, documents: tuple[Document, ...], rows: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Answers in the order of the questions, of which a few are under way at once."""
    answerer = Answerer(batch, documents)
    pool, waiting = ThreadPoolExecutor(min(_TOGETHER, len(rows)), "homer-batch"), deque[Future[dict[str, Any]]]()
    try:
        for row in rows:
            waiting.append(pool.submit(answerer.answer, row))
            if len(waiting) == _TOGETHER:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _on_ray(
    batch: Batch, documents: tuple[Document, ...], rows: Sequence[dict[str, Any]], workers: int, gpus: float
) -> Iterator[dict[str, Any]]:
    """The same by Ray Data; answers come as they are ready, whatever their order."""
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise InputError(f"{error}: pip install homer-integrations[ray]") from None
    without_reports()
    items = ray.data.from_items([{"row": json.dumps(row)} for row in rows], override_num_blocks=len(rows))
    answers = items.map_batches(
        Answerer,
        fn_constructor_args=(batch, documents),
        batch_size=1,
        concurrency=min(workers, len(rows)),
        num_gpus=gpus or None,
    )
    for item in answers.iter_rows():
        yield json.loads(item["row"])


def _documents(batch: Batch, left_out: Sequence[Path], report: Report) -> tuple[Document, ...]:
    """The documents that all questions share, read once for all workers; questions and answers are none of them."""
    if not batch.documents:
        return ()
    skipped: list[str] = []
    found = read_documents(batch.documents, strict=batch.strict, leave_out=left_out, report=skipped.append)
    report.skipped = "".join(skipped)
    return to_homer_documents(found)


def _facts(answer: Answer) -> dict[str, Any]:
    """What a row says of an answer; the documents are known, so passages are given by their characters."""
    facts = answer.to_dict()
    for source in facts["sources"]:
        source["passages"] = [{k: v for k, v in p.items() if k not in ("text", "spans")} for p in source["passages"]]
    thought = {"reasoning": answer.reasoning} if answer.reasoning else {}
    return {"answer": answer.text} | thought | {name: facts[name] for name in ("finish_reason", "usage", "sources")}
