"""Whether what an answer cites is what it rests on, by real questions and needles: one table.

    python benchmarks/citing.py --model DIR --qa DIR --out DIR

Each question is asked of many passages in random order, one of which answers it. Two texts are cited: what the model
said, and the right answer in its place. A document is right if it is the one that answers; a part of it if it holds an
answer. First: what is cited first is right; any: one of the parts cited is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import real
import shared

from homer import Citation, Cited, HomerModel

RIGHT = ("document first", "document any", "part first", "part any")


def judged(case: Any, citations: Sequence[Citation]) -> dict[str, bool]:
    """Whether the parts that an answer's first sentence rests on are right."""
    cited = citations[0].cited if citations else ()
    documents = [part.index == case.gold[0][0] for part in cited]
    parts = [_holds_answer(case, part) for part in cited]
    firsts = (documents[:1] == [True], any(documents), parts[:1] == [True], any(parts))
    return dict(zip(RIGHT, firsts, strict=True))


def _holds_answer(case: Any, part: Cited) -> bool:
    number, answers = case.gold[0]
    return part.index == number and any(answer in part.text for answer in answers)


def answers_right(case: Any, said: str) -> bool:
    """Whether what was said holds the answer."""
    return any(answer.lower() in said.lower() for answer in (case.answer, *case.gold[0][1]))


def measure(model: HomerModel, case: Any, target: int | None, chunk: int | None) -> dict[str, Any]:
    """One question: what was said, and what it and the right answer cite."""
    config = dataclasses.replace(model.config, target_len=target, max_chunk_len=chunk)
    prompt = model.build_prompt(case.question, case.documents)
    cache = model.compress_prompt(prompt, config=config)
    said = (model.generate(cache, 24).text or "").strip()
    there = real.survives(prompt, real.kept_context(prompt, cache), case.gold)
    row: dict[str, Any] = {"said": said, "right": answers_right(case, said), "survives": there}
    for name, text in (("by what was said", said), ("by the right answer", case.answer)):
        row[name] = judged(case, model.cite(prompt, cache, text))
    return row


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: a line a task and text, of the questions whose answer survived."""
    lines = ["| task | cited by | questions | " + " | ".join(RIGHT) + " |", "|---" * (3 + len(RIGHT)) + "|"]
    for task in dict.fromkeys(row["task"] for row in rows):
        cell = [row for row in rows if row["task"] == task]
        there = [row for row in cell if row["survives"]]
        right = [row for row in there if row["right"]]
        told = [("what was said, where it is right", "by what was said", right)]
        told += [("what was said", "by what was said", there), ("the right answer", "by the right answer", there)]
        told += [("what was said, survived or not", "by what was said", cell)]
        for name, key, some in told:
            shares = [f"{sum(row[key][each] for row in some) / len(some):.2f}" if some else "-" for each in RIGHT]
            lines.append(f"| {task} | {name} | {len(some)} | " + " | ".join(shares) + " |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all cells, print and save them."""
    parser = real.new_parser(__doc__)
    parser.add_argument("--tasks", nargs="+", default=["xquad", "nq", "needle"])
    parser.add_argument("--target", type=int, default=None, help="tokens of the compact cache; as usual unless given")
    parser.add_argument("--chunk", type=int, default=None, help="longest chunk; the model's own unless given")
    options = parser.parse_args(arguments)
    model, sets = HomerModel.from_pretrained(options.model, device=options.device), real.load(options.qa)
    rows: list[dict[str, Any]] = []
    for task in options.tasks:
        drawn = (task, sets, options.samples, options.passages)
        cases = real.needles(*drawn[1:]) if task == "needle" else real.draw(*drawn, seed=options.seed)
        rows += [{"task": task} | measure(model, case, options.target, options.chunk) for case in cases]
        print("\n".join(table([row for row in rows if row["task"] == task])), flush=True)
    facts = shared.chosen(options, "passages", "samples", "seed", "target", "chunk")
    shared.write_results(options.out, "citing", facts | {"rows": rows}, table(rows))


if __name__ == "__main__":
    main()
