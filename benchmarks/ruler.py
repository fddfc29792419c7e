"""RULER's synthetic tasks on a real model: needles of four kinds, variables to track, common words to count.

    python benchmarks/ruler.py --model DIR --haystack TEXT --out DIR

A case counts as far as what it asks for is named. Where a prompt fits the window, the plain model stands beside ours.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import shared
import torch

from homer import HomerModel
from homer.experiments import RULER_TASKS, Setup, ruler_cases
from homer.experiments.retrieval import run_cases
from homer.experiments.ruler import RULER_NEW_TOKENS


def measure(setup: Setup, task: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a method and length; the plain model answers where a prompt fits its window."""
    made: dict[str, Any] = {"samples": options.samples, "repeat": options.repeat}
    cases = ruler_cases(setup, task, options.haystack, context_lengths=options.lengths, **made)
    fitting = [case for case in cases if case.length + RULER_NEW_TOKENS <= setup.window()]
    answered = []
    for method, some in (("plain", fitting), ("homer", cases)):
        one = dataclasses.replace(setup, methods=(method,))
        if some:
            answered += run_cases("ruler", one, some, max_new_tokens=RULER_NEW_TOKENS, settings={}).cases
    return [_row(task, [one for one in answered if (one["method"], one["length"]) == key])
            for key in dict.fromkeys((one["method"], one["length"]) for one in answered)]  # fmt: skip


def _row(task: str, cell: Sequence[dict[str, Any]]) -> dict[str, Any]:
    means = {name: round(sum(one[name] for one in cell) / len(cell), 4) for name in ("found", "kept", "seconds")}
    return {"task": task, "method": cell[0]["method"], "length": cell[0]["length"], "samples": len(cell)} | means


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: a line a task and method, a column a length."""
    lengths = sorted({row["length"] for row in rows})
    lines = ["| task | method | " + " | ".join(f"{length:,}" for length in lengths) + " |"]
    lines.append("|---" * (2 + len(lengths)) + "|")
    found = {(row["task"], row["method"], row["length"]): f"{row['found']:.2f}" for row in rows}
    for task, method in dict.fromkeys((row["task"], row["method"]) for row in rows):
        cells = " | ".join(found.get((task, method, length), "-") for length in lengths)
        lines.append(f"| {task} | {method} | {cells} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all tasks, print and save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--haystack", type=Path, required=True, help="a text file or a folder of them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else None)
    parser.add_argument("--dtype")
    parser.add_argument("--tasks", nargs="+", default=list(RULER_TASKS), choices=RULER_TASKS)
    parser.add_argument("--lengths", nargs="+", type=int, default=[4096, 16384, 32768])
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--target", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeat", action="store_true", help="begin again where the text ends")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    model = HomerModel.from_pretrained(options.model, device=options.device, dtype=options.dtype)
    lengths = {"max_chunk_len": options.chunk, "target_len": options.target, "chunk_batch_size": options.batch}
    settings = {name: value for name, value in lengths.items() if value is not None}
    setup = Setup(model, settings=settings, seed=options.seed)
    facts: dict[str, Any] = {"model": model.name.rsplit("/", 1)[-1]}
    facts |= shared.chosen(options, "samples", "chunk", "target", "batch", "seed")
    rows: list[dict[str, Any]] = []
    for task in options.tasks:
        rows += measure(setup, task, options)
        shared.write_results(options.out, "ruler", facts | {"rows": rows}, table(rows))
        print("\n".join(table(rows)[-2:]), flush=True)


if __name__ == "__main__":
    main()
