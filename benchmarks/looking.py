"""What shortening documents for a question costs beside asking it of them, by turns in one run.

    python benchmarks/looking.py --models mini FILE.gguf --documents 8 --out DIR

The demo's questions and as many of its documents. Three times each, in seconds: `Compressor.compress` to 512 tokens;
`ask` until the first token may come; `ask` with an answer of 32 tokens. Texts are tokenized before, for all three.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from homer import Compressor, HomerModel, Question, read_documents
from homer.demo import DOCUMENTS, load_questions
from homer.experiments.report import machine, versions

BUDGET, NEW_TOKENS = 512, 32
WAYS = ("compress", "first token", "ask")


def ways(model: HomerModel, question: str, documents: Sequence[Any]) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    compressor = Compressor(model)
    return {
        "compress": lambda: compressor.compress(question, documents, max_tokens=BUDGET),
        "first token": lambda: model.compress_prompt(model.build_prompt(question, documents)).logits.cpu(),
        "ask": lambda: model.ask(question, documents, max_new_tokens=NEW_TOKENS).text,
    }


def layers(model: HomerModel) -> tuple[int, int]:
    """Layers up to the last head that counts, and all."""
    heads = Question().question_heads(model._calibrated(Question()))
    return max(heads) + 1, model.decoder.layers


def measure(model: HomerModel, name: str, asked: Sequence[str], documents: Sequence[Any], turns: int) -> Any:
    """All seconds of one model, a row; each way goes once before the clock runs."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for run in ways(model, asked[0], documents).values():
        run()
    for question in asked:
        timed = ways(model, question, documents)
        for turn in range(turns):
            for way in WAYS[turn % len(WAYS) :] + WAYS[: turn % len(WAYS)]:
                start = time.perf_counter()
                timed[way]()
                seconds[way].append(round(time.perf_counter() - start, 4))
    run_layers, all_layers = layers(model)
    tokens = len(model.build_prompt(asked[0], documents).context_ids)
    return {"model": name, "tokens": tokens, "layers": run_layers, "of": all_layers, "seconds": seconds}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a model, medians."""
    lines = ["| model | tokens | layers run | compress, s | first token, s | ask, s | share of first token | of ask |"]
    lines.append("|---" * 8 + "|")
    for row in rows:
        short, first, ask = (statistics.median(row["seconds"][way]) for way in WAYS)
        shares = f"{short / first:.2f} | {short / ask:.2f}"
        run = f"{row['layers']} of {row['of']}"
        lines.append(f"| {row['model']} | {row['tokens']} | {run} | {short:.2f} | {first:.2f} | {ask:.2f} | {shares} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all models, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mini"])
    parser.add_argument("--documents", type=int, default=8, help="so many of the demo's")
    parser.add_argument("--questions", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default=None)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    documents = read_documents([DOCUMENTS])[: options.documents]
    asked = [one.question for one in load_questions()[: options.questions]]
    rows = []
    for name in options.models:
        model = HomerModel.from_pretrained(name, device=options.device)
        rows.append(measure(model, Path(name).name, asked, documents, options.turns))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "versions": versions(), "date": time.strftime("%Y-%m-%d"), "rows": rows}
    (options.out / "looking.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
