"""Train the small model on one GPU: python -m training.train --prepared DIR --out DIR --minutes 8

The schedule follows the clock, so that any GPU finishes in the time given; the log says what it came to.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import AutoModelForCausalLM, AutoTokenizer

from homer.schedule import layer_ranges
from training.data import ANSWER, WEIGHTS, Row, Rows
from training.network import forward, new_model

_DECAY_FROM = 0.6
_EVIDENCE_RAMP = 300
_WARMUP = 200


class Batches(IterableDataset[dict[str, Tensor]]):
    """Batches of rows, a different stream in every worker."""

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self.folder, self.size, self.seed = folder, size, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        rows = iter(Rows(self.folder, tokenizer, self.seed * 1000 + (worker.id if worker else 0)))
        while True:
            yield collate([next(rows) for _ in range(self.size)])


def collate(rows: list[Row]) -> dict[str, Tensor]:
    """Rows as tensors: (batch, length) each, but queries (batch, questions, 2) and context (batch, 2)."""
    stacked = {
        name: torch.from_numpy(np.stack([getattr(row, name) for row in rows]))
        for name in ("ids", "positions", "kinds", "owners", "queries")
    }
    return stacked | {"context": torch.tensor([row.context for row in rows])}


def losses(model: Any, batch: dict[str, Tensor], weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Language loss, evidence loss, and right answers: tokens right, tokens asked."""
    ids, kinds = batch["ids"].long(), batch["kinds"].long()
    logits, evidence = forward(
        model, ids, batch["positions"].long(), batch["queries"], batch["context"], batch["owners"]
    )
    targets, weight = ids[:, 1:], weights[kinds[:, 1:]]
    each = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="none")
    language = (each * weight.flatten()).sum() / weight.sum()
    asked = kinds[:, 1:] == ANSWER
    right = (logits[:, :-1].argmax(-1) == targets) & asked
    return language, evidence, right.sum(), asked.sum()


def merged_loss(model: Any, batch: dict[str, Tensor], merges: Tensor, rows: int) -> Tensor:
    """The evidence loss of the first rows when their prompts are averaged on the way up, as merges do."""
    part = {name: tensor[:rows] for name, tensor in batch.items()}
    filler = part["ids"].long().roll(1, 0)
    return forward(
        model,
        part["ids"].long(),
        part["positions"].long(),
        part["queries"],
        part["context"],
        part["owners"],
        merges,
        filler,
    )[1]


def draw_merges(random: Random, layers: int, layers_warmup: int) -> Tensor:
    """(layers,), 1 after each layer that a level of a random tree ends with, the root's left out."""
    ends = [end for _, end in layer_ranges(layers, layers_warmup, random.randint(1, 7))[:-1]]
    return torch.tensor([float(layer + 1 in ends) for layer in range(layers)])


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Linear warmup, a flat stretch, linear decay over the last part."""
    return peak * min(1.0, (step + 1) / _WARMUP, max(0.0, (1 - progress) / (1 - _DECAY_FROM)))


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train and save; returns the log."""
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(options.prepared / "tokenizer")
    model: Any = new_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    if options.init:
        model = AutoModelForCausalLM.from_pretrained(options.init, dtype=torch.float32)
    model.to(device)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.95), fused=device == "cuda")
    on_gpu = device == "cuda"
    step_losses = torch.compile(losses, dynamic=False) if on_gpu else losses
    step_merged = torch.compile(merged_loss, dynamic=False) if on_gpu else merged_loss
    random = Random(options.seed)
    weights = torch.tensor(WEIGHTS, device=device)
    data = Batches(options.prepared, options.batch, options.seed)
    loader = iter(DataLoader(data, batch_size=None, num_workers=options.workers, prefetch_factor=4, pin_memory=True))
    log: list[dict[str, float]] = []
    step, start = 0, time.time()
    while (progress := (time.time() - start) / (60 * options.minutes)) < 1:
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in next(loader).items()}
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            language, evidence, right, asked = step_losses(model, batch, weights)
            merged = language.new_zeros(())
            if options.merged_rows:
                merges = draw_merges(random, len(model.model.layers), options.layers_warmup).to(device)
                merged = step_merged(model, batch, merges, options.merged_rows)
        ramp = options.evidence_weight * (1.0 if options.init else min(1.0, step / _EVIDENCE_RAMP))
        loss = language + ramp * (evidence + 2 * merged)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress, options.rate)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step == 0:  # compiling is not training
            start = time.time()
        if step % 100 == 0:
            log.append(_entry(step, time.time() - start, language, evidence, merged, right, asked))
            print(json.dumps(log[-1]), flush=True)
        step += 1
    return _save(model, tokenizer, options, log, step, time.time() - start)


def _entry(step: int, seconds: float, *measured: Tensor) -> Any:
    language, evidence, merged, right, asked = measured
    values = {
        "language": language.item(),
        "evidence": evidence.item(),
        "merged": merged.item(),
        "answers": (right / asked.clamp_min(1)).item(),
    }
    return {"step": step, "seconds": round(seconds, 1)} | {name: round(value, 4) for name, value in values.items()}


def _save(
    model: Any, tokenizer: Any, options: argparse.Namespace, log: list[Any], steps: int, seconds: float
) -> dict[str, Any]:
    facts = {
        "steps": steps,
        "seconds": round(seconds),
        "tokens": steps * options.batch * 1024,
        "options": {
            name: str(value) for name, value in vars(options).items() if name not in ("prepared", "out", "init")
        },
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "log": log,
    }
    model.to(torch.bfloat16).save_pretrained(options.out, max_shard_size="16MB")
    tokenizer.save_pretrained(options.out)
    (options.out / "training.json").write_text(json.dumps(facts, indent=1))
    return facts


def main(arguments: list[str] | None = None) -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="what training.prepare wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--evidence-weight", type=float, default=0.1)
    parser.add_argument("--init", type=Path, help="a model to go on from, instead of random weights")
    parser.add_argument("--merged-rows", type=int, default=0, help="rows a batch for the evidence loss under merges")
    parser.add_argument("--layers-warmup", type=int, default=6, help="of the trees whose merges are drawn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=14)
    facts = train(parser.parse_args(arguments))
    print({name: facts[name] for name in ("steps", "seconds", "tokens")})


if __name__ == "__main__":
    main()
