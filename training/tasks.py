"""Questions with known answers in held-out text of any length: names, wordings and books that training never saw."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from random import Random

from homer import HomerModel, Prompt, read_documents
from homer.demo import DOCUMENTS
from training.facts import Fact, Facts
from training.library import Texts, fill, load_prose

AFFIX_TOKENS = 70


@dataclasses.dataclass(frozen=True)
class Case:
    """A prompt, the right answer, and the statement that holds it; of several right answers, all of both as well."""

    prompt: Prompt
    answer: str
    statement: str
    answers: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()


class Tasks:
    """Makes cases of a task at a length; the same seed makes the same case."""

    def __init__(self, model: HomerModel, held_out: Path) -> None:
        self.model, self.texts = model, Texts.load(held_out)

    def case(self, task: str, length: int, seed: int) -> Case:
        """One case of a task, of about `length` tokens.

        Args:
            task: "pass_key"; "one_fact"; "one_of_eight", half of them of one kind; "several_values" for one thing,
                each of which is right; "reworded", a fact whose question has other words than its statement; or
                "handbook", about the demo's documents, however long they are.
        """
        if task == "handbook":
            return self._handbook(seed)
        random = Random(f"{task} {length} {seed}")
        facts = Facts(random, held_out=True, free=0)
        planted, right = self._planted(task, facts, seed)
        parts = len(planted) if task == "one_of_eight" else 1
        share = (length - AFFIX_TOKENS) // parts
        shared = random.sample(planted, len(planted))
        documents = [self._document(random, shared[i::parts], share, facts) for i in range(parts)]
        prompt = self.model.build_prompt(planted[0].questions[0], documents)
        answers, statements = zip(*((fact.answer, fact.statement) for fact in planted[:right]), strict=True)
        return Case(prompt, planted[0].answer, planted[0].statement, answers, statements)

    def _planted(self, task: str, facts: Facts, seed: int) -> tuple[list[Fact], int]:
        """The facts of a case, and how many of the first ones hold a right answer."""
        if task == "pass_key":
            return [facts.pass_key()], 1
        if task == "one_of_eight":
            return facts.draw(8, alike=seed % 2 == 0), 1
        if task == "several_values":
            return facts.several(3), 3
        return [facts.reworded() if task == "reworded" else facts.draw(1)[0]], 1

    def _handbook(self, seed: int) -> Case:
        asked = handbook_questions()[seed % len(handbook_questions())]
        prompt = self.model.build_prompt(asked["question"], read_documents([DOCUMENTS]))
        return Case(prompt, asked["answer"], asked["sentence"])

    def absent(self, length: int, seed: int) -> Prompt:
        """A prompt of at least `length` tokens whose documents do not hold the answer."""
        random = Random(f"absent {seed}")
        facts = Facts(random)
        documents = [self._document(random, [], length // 2, facts) for _ in range(3)]
        return self.model.build_prompt(random.choice(facts.draw(1)[0].questions), documents)

    def _document(self, random: Random, planted: list[Fact], budget: int, facts: Facts) -> dict[str, str]:
        """A titled stretch of a held-out book with facts between its sentences."""
        tokenizer = self.model.require_tokenizer("evaluate")
        title = fill(random.choice(load_prose()["titles"]), facts.names)
        used = len(tokenizer(title).input_ids) + 6 + sum(len(tokenizer(f.statement).input_ids) for f in planted)
        pieces = [tokenizer.decode(ids) for ids in self.texts.run(random, max(0, budget - used))]
        for fact in planted:
            pieces.insert(random.randint(0, len(pieces)), f" {fact.statement}")
        return {"title": title, "text": "".join(pieces).strip()}


@functools.cache
def handbook_questions() -> list[dict[str, str]]:
    """Questions about the demo's documents, with answer, document and the sentence that holds the answer."""
    path = Path(__file__).parents[1] / "benchmarks" / "demo_questions.json"
    questions: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return questions
