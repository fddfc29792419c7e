"""The demo: questions over a folder of documents, many times longer than the small model's window."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from homer.config import HomerConfig
from homer.model import HomerModel
from homer.text.files import read_documents
from homer.text.prompt import Prompt
from homer.view.answer import Answer
from homer.view.sources import Passage, Source

DOCUMENTS = Path(__file__).parent / "documents"
_QUESTIONS = Path(__file__).parent / "questions.json"


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its answer, and the document that holds it."""

    question: str
    answer: str
    document: str


def load_questions() -> list[Question]:
    """The questions that the demo asks."""
    return [Question(**entry) for entry in json.loads(_QUESTIONS.read_text(encoding="utf-8"))]


def run_demo(model: HomerModel | None = None, out: Any = print, config: HomerConfig | None = None) -> bool:
    """Ask every question of all documents at once, and print how it went; False if an answer was wrong.

    Args:
        model: None: the small model that ships.
        config: for this demo, in place of the model's own.
    """
    model = model or HomerModel.from_pretrained("mini")
    documents = read_documents([DOCUMENTS])
    tokens = len(model.build_prompt("?", documents).context_ids)
    out(f"{len(documents)} documents, {tokens:,} tokens: {_against(tokens, model.window)}\n")
    right = [_ask(model, question, documents, out, config) for question in load_questions()]
    out(f"{sum(right)} of {len(right)} answers right.")
    return all(right)


def truncated(prompt: Prompt, window: int, reserve: int) -> Prompt:
    """The prompt as a pipeline cuts it that keeps what fits: the beginning of the documents."""
    room = window - reserve - len(prompt.prefix_ids) - len(prompt.suffix_ids)
    return dataclasses.replace(prompt, context_ids=prompt.context_ids[:room], origins=prompt.origins[:room])


def _against(tokens: int, window: int) -> str:
    if tokens < window:
        return f"they fit the model's window of {window:,}, and nothing is compressed."
    return f"{tokens / window:.2g} times the model's window of {window:,}."


def _ask(
    model: HomerModel, question: Question, documents: list[dict[str, str]], out: Any, config: HomerConfig | None
) -> bool:
    prompt = model.build_prompt(question.question, documents)
    cut = model.compress_prompt(truncated(prompt, model.window, 32), config=config, max_new_tokens=32)
    plain = model.generate(cut, 32).text
    start = time.perf_counter()
    answer = model.ask(question.question, documents, config=config, max_new_tokens=32)
    seconds = time.perf_counter() - start
    right = question.answer.casefold() in answer.text.casefold()  # larger models answer in sentences
    source, passage = best_passage(answer)
    out(f"Question   {question.question}")
    out(f"Truncated  {_line(plain or '')}  ({len(cut):,} of {len(prompt):,} tokens read)")
    out(f"HOMER      {_line(answer.text)}  ({'right' if right else f'WRONG, it is {question.answer}'})")
    out(f"Source     {source.title}: {_excerpt(passage.text, question.answer)}")
    out(f"Tokens     {answer.usage.input_tokens:,} compressed to {answer.usage.kept_tokens:,} in {seconds:.1f} s\n")
    return right


def best_passage(answer: Answer) -> tuple[Source, Passage]:
    """The passage that the model looked at most, and its document."""
    pairs = [(source, passage) for source in answer.sources for passage in source.passages]
    return max(pairs, key=lambda pair: pair[1].relevance)


def _line(text: str) -> str:
    return " ".join(text.split())


def _excerpt(text: str, answer: str, width: int = 100) -> str:
    """The part of a passage around the answer, on one line."""
    text = _line(text)
    start = max(0, text.find(answer) - width // 2)
    end = min(len(text), start + width)
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"
