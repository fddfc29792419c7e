"""Products in FP8 beside those in bf16: seconds of `compress`, which tokens are kept, and how far logits lie apart.

    python benchmarks/fp8.py --out fp8.jsonl                     # Llama-2-7B's shape, 64k tokens, random weights: speed
    python benchmarks/fp8.py --model DIR --tokens 16384 --out fp8.jsonl   # a real model: what is kept, and its logits

Random weights tell nothing of what a real model keeps: their attention is flat. A real model reads a text (the shipped
documents, over and over) in float32, in bf16 and in FP8, so that it is seen what rounding does anyway.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shared
import speed
import torch
from torch import Tensor

from homer import CompactCache, HomerConfig, HomerModel, read_documents
from homer.demo import DOCUMENTS

CHUNK = 2048


def compare(one: CompactCache, other: CompactCache) -> dict[str, float]:
    """How far two caches lie apart: shared tokens, and the next token's distribution."""
    ours, theirs = set(one.kept_tokens.tolist()), set(other.kept_tokens.tolist())
    first, second = (cache.logits.float().log_softmax(-1) for cache in (one, other))
    return {
        "kept_by_both": len(ours & theirs) / len(ours),
        "same_next_token": float(first.argmax() == second.argmax()),
        "divergence": float((first.exp() * (first - second)).sum()),
        "logits_apart": float((one.logits - other.logits).norm() / one.logits.norm()),
    }


def seconds(model: HomerModel, call: Callable[[], CompactCache], repeats: int) -> tuple[list[float], CompactCache]:
    """Times of a call after the first, and its result."""
    cache = call()
    times = []
    for _ in range(repeats):
        spent, cache = shared.timed(call, model.decoder.device)
        times.append(spent)
    return times, cache


def random_weights(options: argparse.Namespace) -> dict[str, Any]:
    """Speed on random weights."""
    shape = speed.SHAPES[options.shape]
    model = speed.build(shape, torch.device("cuda"), torch.bfloat16, "sdpa")
    settings = {"max_chunk_len": CHUNK, "target_len": CHUNK, "layers_warmup": 12, "max_initial_chunk_len": 2112}
    config = HomerConfig(**settings, significance="paper")
    ids = torch.randint(0, shape.vocabulary, (options.tokens,), generator=torch.Generator().manual_seed(1))
    parts = ids[:32], ids[32:-32], ids[-32:]
    row: dict[str, Any] = {"weights": "random", "shape": options.shape, "tokens": options.tokens}
    caches = {}
    for name, fast in (("bf16", True), ("fp8", "fp8")):
        one = HomerModel(model, config=config, fast=fast, calibration=False)
        times, caches[name] = seconds(one, lambda one=one: one.compress(*parts), options.repeats)
        row |= {f"{name}_s": sorted(times)[len(times) // 2], f"{name}_each": times}
        row[f"{name}_gb"] = torch.cuda.memory_allocated() / 1e9
    return row | compare(caches["bf16"], caches["fp8"]) | {"times": row["bf16_s"] / row["fp8_s"]}


def real_weights(options: argparse.Namespace) -> dict[str, Any]:
    """What a real model keeps."""
    row: dict[str, Any] = {"weights": options.model, "tokens": options.tokens}
    caches: dict[str, list[CompactCache]] = {}
    for name, dtype, fast in (("float32", "float32", True), ("bf16", "bfloat16", True), ("fp8", "bfloat16", "fp8")):
        model = HomerModel.from_pretrained(options.model, device="cuda", dtype=dtype, fast=fast)
        config = HomerConfig(max_chunk_len=min(CHUNK, model.window // 2), target_len=512, chunk_batch_size=4)
        caches[name] = [model.compress(*parts, config=config) for parts in texts(model, options.tokens)]
        del model
        torch.cuda.empty_cache()
    for name in ("bf16", "fp8"):
        found = [compare(*pair) for pair in zip(caches["float32"], caches[name], strict=True)]
        row[f"{name}_beside_float32"] = {key: sum(one[key] for one in found) / len(found) for key in found[0]}
    return row


def texts(model: HomerModel, tokens: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Eight prompts with questions of their own, over the shipped documents."""
    documents = read_documents([DOCUMENTS])
    ids = torch.tensor(model.tokenize("\n\n".join(document["text"] for document in documents)))
    context = ids.repeat(-(-tokens // len(ids)))[:tokens]
    questions = [f"What does the text say of {document.get('title') or 'this'}? Answer:" for document in documents[:8]]
    return [
        (context[:16], context[16:].roll(997 * n), torch.tensor(model.tokenize(q))) for n, q in enumerate(questions)
    ]


def main() -> None:
    """Measure one, and write a line of JSON."""
    parser = argparse.ArgumentParser(description="Products in FP8 beside those in bf16.")
    parser.add_argument("--model", help="a real model; default: random weights")
    parser.add_argument("--shape", choices=sorted(speed.SHAPES), default="llama-2-7b")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    row = real_weights(options) if options.model else random_weights(options)
    row |= shared.facts() | {"all_s": time.perf_counter() - start}
    print(json.dumps(row, indent=1))
    shared.append_line(options.out, row)


if __name__ == "__main__":
    main()
