"""Flash attention beside SDPA: the same answers, the same survivors, and how long a chunk takes.

    python benchmarks/attention.py --out benchmarks/results/speed/attention.json     # a GPU, and flash-attn

Answers and survivors are the shipped model's, in bfloat16, on the demo's documents; times are of Llama-2-7B's shape
with random weights. Both run on the simple path, since the fast one has SDPA alone.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shared
import torch
from speed import SHAPES, build
from torch import Tensor

from homer import HomerConfig, HomerModel, read_documents
from homer.demo import DOCUMENTS, load_questions

KINDS = ("sdpa", "flash_attention_2")


def answers(device: str) -> dict[str, Any]:
    """What the shipped model answers by each kind, and how much of what one keeps the other keeps as well."""
    documents = read_documents([DOCUMENTS])
    said: dict[str, list[str]] = {}
    kept: dict[str, list[set[int]]] = {}
    logits: dict[str, list[Tensor]] = {}
    for kind in KINDS:
        model = HomerModel.from_pretrained(
            "mini", dtype=torch.bfloat16, device_map=device, attn_implementation=kind, fast=False
        )
        caches = [
            model.compress_prompt(model.build_prompt(question.question, documents)) for question in load_questions()
        ]
        said[kind] = [model.generate(cache, 24).text or "" for cache in caches]
        kept[kind] = [set(cache.kept_tokens.tolist()) for cache in caches]
        logits[kind] = [cache.logits for cache in caches]
    both = [len(a & b) / len(a) for a, b in zip(*kept.values(), strict=True)]
    gaps = [float((a - b).abs().max()) for a, b in zip(*logits.values(), strict=True)]
    same = sum(a == b for a, b in zip(*said.values(), strict=True))
    return {"answers": said, "same_answers": same, "kept_by_both": both, "largest_logit_gap": gaps}


def times(device: str, length: int, repeats: int) -> dict[str, Any]:
    """Seconds of 2,048 tokens through 17 layers and of a compression, by each kind; and how far results differ."""
    target = torch.device(device)
    row: dict[str, Any] = {"tokens": length}
    ids = torch.randint(0, 32000, (length,), generator=torch.Generator().manual_seed(0))
    config = HomerConfig(max_chunk_len=2048, target_len=2048, layers_warmup=12, max_initial_chunk_len=2112)
    chunk, positions = ids[:2048][None].to(target), torch.arange(2048, device=target)[None]
    hidden = []
    for kind in KINDS:
        model = HomerModel(build(SHAPES["llama-2-7b"], target, torch.bfloat16, kind), fast=False)
        hidden.append(model.decoder.run(0, 17, chunk, positions).hidden_states)
        parts = (ids[:32], ids[32:-32], ids[-32:])
        row[kind] = {
            "chunk_ms": 1000 * best(target, repeats, model.decoder.run, 0, 17, chunk, positions),
            "compress_s": best(target, 3, model.compress, *parts, config=config),
        }
    gap = (hidden[0] - hidden[1]).abs()
    return row | {
        "hidden_gap_max": float(gap.max()),
        "hidden_gap_mean": float(gap.mean()),
        "hidden_mean": float(hidden[0].abs().mean()),
    }


def best(device: torch.device, repeats: int, call: Callable[..., Any], *args: Any, **options: Any) -> float:
    """The least seconds of a call."""
    return min(shared.timed(functools.partial(call, *args, **options), device)[0] for _ in range(repeats))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--length", type=int, default=65536)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    import flash_attn

    result = shared.facts() | {
        "flash-attn": flash_attn.__version__,
        "answers": answers(options.device),
        "times": times(options.device, options.length, options.repeats),
    }
    print(json.dumps(result, indent=1))
    shared.write_json(options.out, result)


if __name__ == "__main__":
    main()
