"""What a long `ask` costs on a CPU: one leaf at a time, several at once, the fast path, and bfloat16; in one run.

    python benchmarks/cpu.py --out benchmarks/results/speed/cpu.json     # the shipped model, 32,000 tokens, minutes

The rounds go through all ways in turn, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
from pathlib import Path
from typing import Any

import shared
import torch

from homer import HomerModel, read_documents
from homer.demo import DOCUMENTS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for every dtype, path and batch; the rounds go through all of them in turn."""
    documents = enough(options.tokens)
    models = {
        (dtype, fast): HomerModel.from_pretrained("mini", dtype=DTYPES[dtype], device_map="cpu", fast=fast)
        for dtype in DTYPES
        for fast in (False, True)
    }
    times: dict[tuple[str, bool, int], list[float]] = {
        (dtype, fast, batch): [] for dtype, fast in models for batch in options.batches
    }
    tokens = 0
    for _ in range(options.repeats + 1):
        for (dtype, fast, batch), seconds in times.items():
            model = models[dtype, fast]
            config = dataclasses.replace(model.config, chunk_batch_size=batch)
            ask = functools.partial(model.ask, "Where is the summer party held?", documents, max_new_tokens=16)
            spent, answer = shared.timed(lambda ask=ask, config=config: ask(config=config))
            seconds.append(spent)
            tokens = answer.usage.input_tokens
    first = statistics.median(next(iter(times.values()))[1:])
    return [
        {"dtype": dtype, "path": "fast" if fast else "simple", "chunk_batch_size": batch, "tokens": tokens}
        | {"seconds": statistics.median(seconds[1:]), "runs": seconds, "faster": first / statistics.median(seconds[1:])}
        for (dtype, fast, batch), seconds in times.items()
    ]


def enough(tokens: int) -> list[dict[str, str]]:
    """The demo's documents over and over, up to about so many tokens."""
    documents = read_documents([DOCUMENTS])
    model = HomerModel.from_pretrained("mini")
    tokenizer = model.require_tokenizer("measure")
    made: list[dict[str, str]] = []
    left = tokens
    while left > 0:
        document = documents[len(made) % len(documents)]
        ids = tokenizer(document["text"]).input_ids[:left]
        made.append({"title": f"{len(made)}-{document['title']}", "text": tokenizer.decode(ids)})
        left -= len(ids)
    return made


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Seconds of an ask on the CPU, the shipped model.")
    parser.add_argument("--tokens", type=int, default=32000)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3, help="rounds after the first, of which the median counts")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = shared.facts() | {"instructions": torch.backends.cpu.get_cpu_capability()}
    report["rows"] = measure(options)
    for row in report["rows"]:
        name = f"{row['dtype']}, {row['path']} path, {row['chunk_batch_size']} leaves at once"
        print(f"{name:45} {row['seconds']:7.2f} s {row['faster']:6.2f} x", flush=True)
    shared.write_json(options.out, report)
    return report


if __name__ == "__main__":
    main()
