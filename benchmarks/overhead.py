"""What stands around the model: seconds of building a prompt, its sources and its trace, for four shapes of documents.

    python benchmarks/overhead.py                               # 65,000 tokens by the shipped model's tokenizer
    python benchmarks/overhead.py --tokenizer DIR_OR_ID ...     # by others; a .gguf file is one as well

No model runs: the compact cache is made up, with the survivors that a plan leaves, drawn at random. "Tokenizing" is
what the tokenizers library itself takes of the prompt; with TOKENIZERS_PARALLELISM=false that is one core. As in
`homer serve`, Python's garbage collector looks through what a run makes, not through all that is loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import load
import shared
import torch
from transformers import AutoTokenizer

from homer import CompactCache, HomerConfig, Prompt
from homer.backends.entries import Entries
from homer.backends.loading import MINI
from homer.plan.schedule import plan_for
from homer.text.prompt import PromptBuilder
from homer.text.tokenizing import PieceTokenizer
from homer.text.widths import Widths
from homer.view.sources import trace_sources
from homer.view.trace import trace_documents

LAYERS, KEPT = 32, 2048  # of the model whose cache is made up
COLUMNS = ("prompt", "tokenizing", "second prompt", "sources", "trace", "all")
HEADER = f"{'tokenizer':24} {'documents':18} {'tokens':>7} " + " ".join(f"{name:>13}" for name in COLUMNS)


def characters_of(tokenizer: Any, tokens: int) -> int:
    """About how many characters of these sentences are so many tokens."""
    sample = " ".join(itertools.islice(load.told(99), 50))
    return int(tokens * len(sample) / len(PromptBuilder(tokenizer).tokenize(sample)[0]))


def told(characters: int, seed: int) -> list[str]:
    """Sentences of so many characters in all."""
    said = load.told(seed)
    parts = [next(said)]
    length = len(parts[0])
    while length < characters:
        parts.append(next(said))
        length += len(parts[-1]) + 1
    return parts


def shapes(characters: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Documents of so many characters in all, by the name of their shape."""
    parts = told(characters, seed)
    whole = " ".join(parts)
    yield "375 documents", cut(whole, 375)
    yield "one document", ["\n\n".join(" ".join(parts[n : n + 6]) for n in range(0, len(parts), 6))]
    yield "one of 6,000 lines", ["\n".join(cut(whole, 6000))]
    yield "8,000 documents", cut(whole, 8000)


def cut(text: str, pieces: int) -> list[str]:
    """A text in so many pieces, equal in words."""
    words = text.split()
    edges = [len(words) * n // pieces for n in range(pieces + 1)]
    return [" ".join(words[a:b]) for a, b in itertools.pairwise(edges)]


def made_up_cache(prompt: Prompt, kept: int = KEPT) -> CompactCache:
    """A cache as a compression to so many tokens would leave it, with nothing in its keys and values."""
    before, context, after = prompt.lengths
    config = HomerConfig(max_chunk_len=kept, layers_warmup=LAYERS // 2).resolve(2 * kept, LAYERS)
    plan = plan_for(config, LAYERS, (before, context, after))
    draw = torch.Generator().manual_seed(0)
    chosen = torch.randperm(context, generator=draw)[: plan.final_len - before - after].sort().values
    survived = torch.randint(0, plan.height + 1, (len(prompt),), generator=draw).to(torch.int8)
    survived[before + chosen] = plan.height + 1
    tokens = torch.cat([torch.arange(before), before + chosen, torch.arange(before + context, len(prompt))])
    ids = torch.cat(prompt.parts)
    states = (torch.zeros(1, 1, len(tokens), 1),) * LAYERS
    return CompactCache(
        *(Entries(states, states), torch.arange(len(tokens))[None], tokens, ids[tokens][None]),
        *(torch.rand(len(tokens), generator=draw), torch.zeros(1, 5), len(prompt), before, after),
        *("a model", "its digest", HomerConfig(**config.to_dict()), survived),
    )


def tokenizer_of(name: str) -> Any:
    """The tokenizer of a folder, a hub id or a GGUF file."""
    path = Path(name)
    if path.suffix == ".gguf":
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return AutoTokenizer.from_pretrained(name)


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """Seconds of every call of the tokenizers library, while it lasts."""
    seconds, ways = list[float](), ((Widths, "_tokenized"), (PieceTokenizer, "_encodings"))

    def counting(call: Callable[[Any, list[str]], Any]) -> Callable[[Any, list[str]], Any]:
        def counted(owner: Any, texts: list[str]) -> Any:
            took, found = shared.timed(lambda: call(owner, texts))
            seconds.append(took)
            return found

        return counted

    plain = [getattr(kind, name) for kind, name in ways]
    for (kind, name), call in zip(ways, plain, strict=True):
        setattr(kind, name, counting(call))
    try:
        yield seconds
    finally:
        for (kind, name), call in zip(ways, plain, strict=True):
            setattr(kind, name, call)


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """The garbage collector leaves out what is here already, meanwhile."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def measure(tokenizer: Any, name: str, tokens: int, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for every shape: medians of runs on documents that no run has seen before."""
    characters = characters_of(tokenizer, tokens)
    runs = [dict(shapes(characters, seed)) for seed in range(1, repeats + 1)]
    for shape in runs[0]:
        rows = [run(tokenizer, each[shape]) for each in runs]
        seconds = {column: statistics.median(row[column] for row in rows) for column in COLUMNS}
        yield {"tokenizer": name, "documents": shape, "tokens": rows[0]["tokens"]} | seconds


def run(tokenizer: Any, documents: list[str]) -> dict[str, Any]:
    """Seconds of each step, once."""
    with watched() as inside:
        first, _ = shared.timed(lambda: PromptBuilder(tokenizer).build("What is remark 7?", documents))
    second, prompt = shared.timed(lambda: PromptBuilder(tokenizer).build("And what is remark 8?", documents))
    cache = made_up_cache(prompt)
    sources, _ = shared.timed(lambda: trace_sources(prompt, cache))
    trace, _ = shared.timed(lambda: trace_documents(prompt, cache))
    row = {"tokens": len(prompt), "prompt": first, "tokenizing": sum(inside), "second prompt": second}
    return row | {"sources": sources, "trace": trace, "all": first + sources + trace}


def line(row: dict[str, Any]) -> str:
    """A row as it is printed, in seconds."""
    cells = " ".join(f"{row[name]:13.3f}" for name in COLUMNS)
    return f"{row['tokenizer'][-24:]:24} {row['documents']:18} {row['tokens']:7,} {cells}"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure all shapes with all tokenizers; print rows as they come, and give the report."""
    parser = argparse.ArgumentParser(description="Seconds of what stands around the model.")
    parser.add_argument("--tokenizer", nargs="+", default=[str(MINI)], help="folders, hub ids or GGUF files")
    parser.add_argument("--tokens", type=int, default=65_000)
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs, each on new documents, of which the median counts"
    )
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    parallel = {"tokenizers_parallelism": os.environ.get("TOKENIZERS_PARALLELISM", "not set")}
    report: dict[str, Any] = shared.facts() | parallel | {"rows": []}
    print(HEADER, flush=True)
    for name in options.tokenizer:
        tokenizer = tokenizer_of(name)
        with settled():
            for row in measure(tokenizer, Path(name).name, options.tokens, options.repeats):
                report["rows"].append(row)
                print(line(row), flush=True)
    shared.write_json(options.out, report)
    return report


if __name__ == "__main__":
    main()
