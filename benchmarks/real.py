"""What survives of real questions' answers in a real model's compact cache, BM25 beside it: one table.

    python benchmarks/real.py --model DIR --qa DIR --out DIR

Each question is asked of many passages in random order, one of which answers it. Survival: does a span that states
the answer stay whole. BM25 hands over its best passages, the last one cut, at the same number of context tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # bm25s takes JAX where it is, and JAX all of the GPU's memory

import bm25s
import shared
import Stemmer
import torch
from torch import Tensor

from homer import CompactCache, HomerModel
from homer.text.prompt import Prompt

NEEDLE = "The door code for the {room} is {code}."
ROOMS = "boathouse,print shop,north gate,seed store,organ loft,cold chamber,map room,rope walk".split(",")
OTHERS = ("bm25", "bm25 best last", "right passage")


@dataclasses.dataclass(frozen=True)
class Case:
    """Questions (asked together), the documents, and for each question (document, answers as they stand there)."""

    question: str
    documents: list[dict[str, str]]
    gold: list[tuple[int, list[str]]]
    answer: str


def load(folder: Path) -> dict[str, tuple[list[dict[str, str]], list[tuple[str, list[str], int]]]]:
    """For every data set its passages, and (question, answers, number of the passage) of every question."""
    passages: list[dict[str, str]] = []
    questions: list[tuple[str, list[str], int]] = []
    with gzip.open(folder / "xquad-en-half.json.gz") as file:
        for article in json.load(file)["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = [answer["text"] for answer in asked["answers"]]
                    questions.append((asked["question"], answers, len(passages)))
                passages.append({"text": paragraph["context"]})
    sets = {"xquad": (passages, questions)}
    passages, questions = [], []
    with gzip.open(folder / "nq-open-oracle-half.jsonl.gz") as file:
        for row in map(json.loads, file):
            context = row["ctxs"][0]
            answers = [answer for answer in row["answers"] if answer in context["text"]]
            if answers:
                questions.append((row["question"], answers, len(passages)))
                passages.append({"title": context["title"], "text": context["text"]})
    return sets | {"nq": (passages, questions)}


def draw(name: str, sets: dict[str, Any], count: int, passages: int, asked: int = 1, seed: int = 0) -> list[Case]:
    """Cases of a data set; with `asked` of 2, two questions at once."""
    rng = random.Random(f"{name}{seed}{asked}")
    own, questions = sets[name]
    others = [passage for key, (rows, _) in sets.items() if key != name for passage in rows]
    cases = []
    for _ in range(count):
        chosen = rng.sample(questions, asked)
        needed = list(dict.fromkeys(number for *_, number in chosen))
        rest = [number for number in range(len(own)) if number not in needed]
        rows = [own[i] for i in needed + rng.sample(rest, min(len(rest), passages - len(needed)))]
        rows += rng.sample(others, passages - len(rows))
        order = rng.sample(range(len(rows)), len(rows))
        gold = [(order.index(needed.index(number)), answers) for _, answers, number in chosen]
        text = " ".join(question for question, *_ in chosen)
        cases.append(Case(text, [rows[i] for i in order], gold, chosen[0][1][0]))
    return cases


def needles(sets: dict[str, Any], count: int, passages: int) -> list[Case]:
    """A door code stated between two sentences of a real paragraph."""
    cases = []
    for number, case in enumerate(draw("xquad", sets, count, passages, seed=1)):
        rng = random.Random(number)
        room, code = rng.choice(ROOMS), str(rng.randrange(1000, 10000))
        index, _ = case.gold[0]
        text = case.documents[index]["text"]
        cut = text.find(". ") + 2 if ". " in text else 0
        statement = NEEDLE.format(room=room, code=code)
        documents = [dict(document) for document in case.documents]
        documents[index]["text"] = f"{text[:cut]}{statement} {text[cut:]}"
        cases.append(Case(f"What is the door code for the {room}?", documents, [(index, [statement])], code))
    return cases


def survives(prompt: Prompt, kept: Tensor, gold: Sequence[tuple[int, list[str]]]) -> bool:
    """Whether for every question a span that states an answer is whole among the kept context tokens (bool)."""
    return all(any(bool(kept[tokens].all()) for tokens in answer_tokens(prompt, *one)) for one in gold)


def answer_tokens(prompt: Prompt, document: int, answers: Sequence[str]) -> Iterator[Tensor]:
    """The context tokens (n,) of every span of a document that states an answer, wherever it stands."""
    number, start, end = prompt.origins.unbind(1)
    text = prompt.documents[document].text
    for answer in answers:
        at = text.find(answer)
        while at >= 0:
            tokens = ((number == document) & (end > at) & (start < at + len(answer))).nonzero().flatten()
            if len(tokens):
                yield tokens
            at = text.find(answer, at + 1)


def kept_context(prompt: Prompt, cache: CompactCache) -> Tensor:
    """(context tokens,), bool: which of them a compact cache holds."""
    indices = cache.kept_tokens.cpu() - len(prompt.prefix_ids)
    kept = torch.zeros(len(prompt.context_ids), dtype=torch.bool)
    kept[indices[(indices >= 0) & (indices < len(kept))]] = True
    return kept


def bm25_ranking(case: Case) -> list[int]:
    """The numbers of all passages by BM25, the best one first."""
    stemmer = Stemmer.Stemmer("english")

    def split(texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    index = bm25s.BM25()
    texts = [f"{document.get('title', '')} {document['text']}" for document in case.documents]
    index.index(split(texts), show_progress=False)
    order: list[int] = index.retrieve(split([case.question]), k=len(texts), show_progress=False)[0][0].tolist()
    return order


def bm25_passages(case: Case, prompt: Prompt, room: int) -> list[Tensor]:
    """The context tokens (their indices) of each of the best passages by BM25, best first, `room` in all."""
    chosen: list[Tensor] = []
    for document in bm25_ranking(case):
        chosen.append((prompt.origins[:, 0] == document).nonzero().flatten()[: max(0, room - sum(map(len, chosen)))])
    return [rows for rows in chosen if len(rows)]


def likelihood(model: HomerModel, cache: Any, answer: str) -> float:
    """Mean log-likelihood of an answer's tokens after a compact cache."""
    ids = torch.tensor(model.tokenize(answer))
    rows = torch.cat([cache.logits, model.forward(ids, cache)[0, :-1].float().to(cache.logits.device)])
    return float(rows.float().log_softmax(-1).cpu().gather(1, ids[:, None]).mean())


def chosen_rows(case: Case, prompt: Prompt, target: int, by: str) -> Tensor:
    """The context tokens that one of `OTHERS` hands over, in the order in which they are read."""
    if by == "right passage":
        numbers = prompt.origins[:, 0]
        return (numbers[:, None] == torch.tensor([document for document, _ in case.gold])).any(1).nonzero().flatten()
    passages = bm25_passages(case, prompt, target - len(prompt.prefix_ids) - len(prompt.suffix_ids))
    return torch.cat(passages[::-1]) if by == "bm25 best last" else torch.cat(passages).sort().values


def measure(model: HomerModel, case: Case, target: int, significance: str, answered: bool) -> dict[str, Any]:
    """One case by one significance, or by one of `OTHERS`."""
    prompt = model.build_prompt(case.question, case.documents)
    config = dataclasses.replace(model.config, target_len=target)
    start = time.perf_counter()
    if significance in OTHERS:
        rows = chosen_rows(case, prompt, target, significance)
        short = dataclasses.replace(prompt, context_ids=prompt.context_ids[rows], origins=prompt.origins[rows])
        cache = model.compress_prompt(short, max_new_tokens=32)
        kept = torch.zeros(len(prompt.context_ids), dtype=torch.bool).index_fill_(0, rows, True)
    else:
        cache = model.compress_prompt(prompt, config=dataclasses.replace(config, significance=significance))
        kept = kept_context(prompt, cache)
    seconds = time.perf_counter() - start
    row: dict[str, Any] = {"survives": survives(prompt, kept, case.gold), "tokens": len(prompt), "seconds": seconds}
    if answered:
        row["likelihood"] = likelihood(model, cache, case.answer)
        row["said"] = model.generate(cache, 24).text
        row["right"] = case.answer in (row["said"] or "")
    return row


def report(rows: list[dict[str, Any]]) -> list[str]:
    """A line a cell: survival, answers, likelihood."""
    lines = []
    for key in dict.fromkeys((row["task"], row["target"], row["by"]) for row in rows):
        cell = [row for row in rows if (row["task"], row["target"], row["by"]) == key]
        mean: Callable[[str], float] = lambda name: sum(r.get(name, math.nan) for r in cell) / len(cell)  # noqa: B023, E731
        lines.append(
            f"{key[0]:12} {key[1]:6} {key[2]:13} n={len(cell):3} survives {mean('survives'):.2f} "
            f"right {mean('right'):.2f} likelihood {mean('likelihood'):.2f} {mean('seconds'):.2f} s"
        )
    return lines


def new_parser(purpose: str | None) -> argparse.ArgumentParser:
    """The options of all scripts that ask real questions."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("--model")
    parser.add_argument("--qa", type=Path, help="folder of the questions")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else None)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--passages", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    """Run all cells, print and save them."""
    parser = new_parser(__doc__)
    parser.add_argument("--targets", type=int, nargs="+", default=[256, 512, 2048])
    parser.add_argument("--by", nargs="+", default=["auto", "standardized", "paper", *OTHERS])
    parser.add_argument("--tasks", nargs="+", default=["xquad", "nq", "two xquad", "two nq", "needle"])
    parser.add_argument("--few", type=int, default=20, help="samples for all but the first of --by and bm25")
    options = parser.parse_args()
    model, sets = HomerModel.from_pretrained(options.model, device=options.device), load(options.qa)
    rows: list[dict[str, Any]] = []
    for task in options.tasks:
        name, asked = task.removeprefix("two "), 1 + task.startswith("two ")
        cases = (
            needles(sets, min(24, options.samples), options.passages)
            if task == "needle"
            else draw(name, sets, options.samples, options.passages, asked, options.seed)
        )
        for target in options.targets:
            for number, by in enumerate(options.by):
                some = cases if number == 0 or by.startswith("bm25") else cases[: options.few]
                for case in some:
                    row = measure(model, case, target, by, answered=asked == 1)
                    rows.append({"task": task, "target": target, "by": by} | row)
                print(report(rows)[-1], flush=True)
                content = shared.chosen(options, "passages", "seed") | {"rows": rows}
                shared.write_results(options.out, "real", content, report(rows))


if __name__ == "__main__":
    main()
