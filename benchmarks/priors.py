"""Whether BM25's ranks as a prior help the compressor: recall and survival by the weight of the prior, one table.

    python benchmarks/priors.py --model DIR --qa DIR --out DIR

Each question is asked of many passages in random order, one of which answers it. They are read once, whatever the
prior. Recall: does the right passage stand among the first 1, 3, 5 and 11. Survival: is a span that states the answer
whole in so many tokens of text.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import real
import shared
from compressing import BUDGETS, FIRST, HEADS, states_answer
from torch import Tensor

from homer import Compressor, HomerConfig, HomerModel, Question
from homer.text.prompt import Prompt

PRIORS = (0.0, 0.25, 0.5, 1.0, 2.0)


class Remembering(Compressor):
    """A compressor that looks once a case, for all priors: `memo` is shared, and emptied for the next case."""

    memo: dict[str, Tensor]

    def _look(self, prompt: Prompt, progress: bool, tick: Callable[[], None]) -> Tensor:
        if "votes" not in self.memo:
            self.memo["votes"] = super()._look(prompt, progress, tick)
        return self.memo["votes"]


def compressors(model: HomerModel, config: HomerConfig, priors: Sequence[float]) -> dict[float, Remembering]:
    """A compressor for every prior, with one memory."""
    memo: dict[str, Tensor] = {}
    made = {}
    for prior in priors:
        made[prior] = Remembering(model, config=dataclasses.replace(config, significance=Question(prior=prior)))
        made[prior].memo = memo
    return made


def with_scores(case: Any) -> list[dict[str, Any]]:
    """The passages, with scores that put them into BM25's order."""
    ranks = {number: rank for rank, number in enumerate(real.bm25_ranking(case))}
    return [document | {"score": -ranks[number]} for number, document in enumerate(case.documents)]


def measure(compressor: Compressor, case: Any, documents: Sequence[Any]) -> dict[str, Any]:
    """One question by one prior."""
    prompt, parts = compressor._read(case.question, documents)
    survives, ranking = {}, ()
    for budget in BUDGETS:
        found = compressor._choose(prompt, parts, "sentences", budget, None)
        ranking = found.ranking
        kept = {number: list(spans) for number, spans in zip(found.indices, found.spans, strict=True)}
        survives[str(budget)] = states_answer(case, kept)
    return {"rank": ranking.index(case.gold[0][0]), "survives": survives}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: a line a set and prior; BM25 by itself first."""
    lines = ["| set | prior | n | " + " | ".join(HEADS) + " |", "|---" * (3 + len(HEADS)) + "|"]
    for key in dict.fromkeys((row["set"], row["prior"]) for row in rows):
        cell = [row for row in rows if (row["set"], row["prior"]) == key]
        shares = [f"{sum(row['rank'] < k for row in cell) / len(cell):.2f}" for k in FIRST]
        for budget in map(str, BUDGETS):
            known = [row["survives"][budget] for row in cell if row["survives"]]
            shares.append(f"{sum(known) / len(known):.2f}" if known else "-")
        lines.append(f"| {key[0]} | {key[1]} | {len(cell)} | " + " | ".join(shares) + " |")
    return lines


def run(options: argparse.Namespace, model: HomerModel) -> list[dict[str, Any]]:
    """All cells."""
    config = HomerConfig(max_chunk_len=options.chunk, chunk_batch_size=options.batch)
    ways, sets = compressors(model, config, options.priors), real.load(options.qa)
    rows: list[dict[str, Any]] = []
    for name in options.sets:
        for case in real.draw(name, sets, options.samples, options.passages, seed=options.seed):
            documents = with_scores(case)
            bm25 = -documents[case.gold[0][0]]["score"]
            rows.append({"set": name, "prior": "bm25 alone", "rank": bm25, "survives": {}})
            for prior, way in ways.items():
                rows.append({"set": name, "prior": prior} | measure(way, case, documents))
            ways[options.priors[0]].memo.clear()
        print("\n".join(table([row for row in rows if row["set"] == name])), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all cells, print and save them."""
    parser = real.new_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=["xquad", "nq"])
    parser.add_argument("--priors", nargs="+", type=float, default=list(PRIORS))
    parser.add_argument("--chunk", type=int, default=None, help="longest leaf; the model's own unless given")
    parser.add_argument("--batch", type=int, default=1, help="leaves at a time")
    options = parser.parse_args(arguments)
    rows = run(options, HomerModel.from_pretrained(options.model, device=options.device))
    facts = shared.chosen(options, "passages", "samples", "seed", "chunk", "batch")
    shared.write_results(options.out, "priors", facts | {"rows": rows}, table(rows))


if __name__ == "__main__":
    main()
