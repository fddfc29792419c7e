"""What a question finds among many passages: this library's compressor, BM25, and BM25 first with ours behind it.

    python benchmarks/compressing.py --model DIR --qa DIR --out DIR

Each question is asked of many passages in random order, one of which answers it. Recall: does the right passage stand
among the first 1, 3, 5 and 11. Survival: is a span that states the answer whole in so many tokens of text.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import real
import torch

from homer import Compressor, HomerConfig, HomerModel
from homer.experiments.report import machine, versions

FIRST = (1, 3, 5, 11)
BUDGETS = (128, 256, 512, 1024)
CANDIDATES = 100  # passages that BM25 leaves to ours, where it goes first
Spans = dict[int, list[tuple[int, int]]]  # of passages, what is kept of them
Found = tuple[list[int], dict[int, Spans]]  # the ranking, and what is kept at every budget


def ours(compressor: Compressor, case: Any, numbers: Sequence[int] | None = None) -> Found:
    """By the compressor, of all passages or of some; read once for all budgets."""
    numbers = range(len(case.documents)) if numbers is None else numbers
    prompt, parts = compressor._read(case.question, [case.documents[number] for number in numbers])
    kept: dict[int, Spans] = {}
    ranking: Sequence[int] = ()
    for budget in BUDGETS:
        result = compressor._choose(prompt, parts, "sentences", budget, None)
        ranking = result.ranking
        kept[budget] = {numbers[i]: list(spans) for i, spans in zip(result.indices, result.spans, strict=True)}
    return [numbers[place] for place in ranking], kept


def bm25(compressor: Compressor, case: Any) -> Found:
    """The best passages, the last one cut."""
    ranking, lengths = real.bm25_ranking(case), {}
    kept: dict[int, Spans] = {}
    for budget in BUDGETS:
        room, kept[budget] = budget, {}
        for number in ranking:
            if room <= 0:
                break
            text = case.documents[number]["text"]
            if number not in lengths:
                lengths[number] = compressor._builder.encode(text)[0][:, 1:].tolist()
            inside = lengths[number][:room]
            kept[budget][number] = [(0, inside[-1][1])]
            room -= len(inside)
    return ranking, kept


def bm25_then_ours(compressor: Compressor, case: Any) -> Found:
    """Ours over BM25's best, in the order in which they stood."""
    return ours(compressor, case, sorted(real.bm25_ranking(case)[:CANDIDATES]))


WAYS: dict[str, Callable[[Compressor, Any], Found]] = {"ours": ours, "bm25": bm25, "bm25, ours": bm25_then_ours}


def states_answer(case: Any, kept: Spans) -> bool:
    """Whether a span that states the answer is whole in what is kept of the right passage."""
    number, answers = case.gold[0]
    text = case.documents[number]["text"]
    for answer in answers:
        place = text.find(answer)
        while place >= 0:
            if any(a <= place and place + len(answer) <= b for a, b in kept.get(number, [])):
                return True
            place = text.find(answer, place + 1)
    return False


def measure(way: Callable[[Compressor, Any], Found], compressor: Compressor, case: Any) -> dict[str, Any]:
    """One question by one way."""
    start = time.perf_counter()
    ranking, kept = way(compressor, case)
    seconds = time.perf_counter() - start
    right = case.gold[0][0]
    rank = ranking.index(right) if right in ranking else len(case.documents)
    survives = {str(budget): states_answer(case, kept[budget]) for budget in BUDGETS}
    return {"rank": rank, "survives": survives, "seconds": seconds}


def asking_seconds(model: HomerModel, cases: Sequence[Any]) -> float:
    """What `ask` takes until the first token may come, a question."""
    start = time.perf_counter()
    for case in cases:
        model.compress_prompt(model.build_prompt(case.question, case.documents)).logits.cpu()
    return (time.perf_counter() - start) / len(cases)


def table(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> list[str]:
    """Markdown: a line a set and way."""
    heads = [f"right in first {k}" for k in FIRST] + [f"answer in {b}" for b in BUDGETS]
    lines = ["| set | by | n | " + " | ".join(heads) + " | s a question |", "|---" * (4 + len(heads)) + "|"]
    for key in dict.fromkeys((row["set"], row["by"]) for row in rows):
        cell = [row for row in rows if (row["set"], row["by"]) == key]
        shares = [sum(row["rank"] < k for row in cell) / len(cell) for k in FIRST]
        shares += [sum(row["survives"][str(budget)] for row in cell) / len(cell) for budget in BUDGETS]
        seconds = sum(row["seconds"] for row in cell) / len(cell)
        numbers = " | ".join(f"{share:.2f}" for share in shares)
        lines.append(f"| {key[0]} | {key[1]} | {len(cell)} | {numbers} | {seconds:.3f} |")
    return lines + [f"\n{name}: {value}" for name, value in facts.items() if name.startswith("ask")]


def save(folder: Path, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Everything so far, with what it was measured on."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "versions": versions()} | facts | {"rows": rows}
    (folder / "compressing.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "compressing.md").write_text("\n".join(table(rows, facts)) + "\n", encoding="utf-8")


def draw(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One figure: of how many questions the answer is in the text, by its tokens."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure, axes = plt.subplots(1, len(sets), figsize=(4.2 * len(sets), 3.2), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        for by in dict.fromkeys(row["by"] for row in rows):
            cell = [row for row in rows if (row["set"], row["by"]) == (name, by)]
            shares = [sum(row["survives"][str(budget)] for row in cell) / max(1, len(cell)) for budget in BUDGETS]
            axis.plot(range(len(BUDGETS)), shares, marker="o", label=by)
        axis.set(title=name, xlabel="tokens of text", ylim=(0, 1.03))
        axis.set_xticks(range(len(BUDGETS)), [str(budget) for budget in BUDGETS])
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("the answer is in it")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(folder / "compressing.png", dpi=150)
    plt.close(figure)


def main() -> None:
    """Run all cells, print and save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--qa", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else None)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--passages", type=int, default=240)
    parser.add_argument("--sets", nargs="+", default=["xquad", "nq"])
    parser.add_argument("--by", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--chunk", type=int, default=None, help="longest leaf; the model's own unless given")
    parser.add_argument("--batch", type=int, default=1, help="leaves at a time")
    parser.add_argument("--asks", type=int, default=3, help="questions a set for which ask is timed as well; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = HomerModel.from_pretrained(options.model, device=options.device)
    config = HomerConfig(max_chunk_len=options.chunk, chunk_batch_size=options.batch)
    compressor = Compressor(model, config=config)
    facts = {"passages": options.passages, "seed": options.seed, "chunk": options.chunk, "batch": options.batch}
    sets, rows = real.load(options.qa), []
    for name in options.sets:
        cases = real.draw(name, sets, options.samples, options.passages, seed=options.seed)
        ours(compressor, cases[0])  # heads are measured, kernels are compiled
        for by in options.by:
            for case in cases:
                rows.append({"set": name, "by": by} | measure(WAYS[by], compressor, case))
            print(table(rows, {})[-1], flush=True)
            save(options.out, rows, facts)
        if options.asks:
            asked = cases[: options.asks]
            asking_seconds(model, asked[:1])
            facts[f"ask until the first token, {name}, s"] = round(asking_seconds(model, asked), 3)
            save(options.out, rows, facts)
    draw(options.out, rows)


if __name__ == "__main__":
    main()
