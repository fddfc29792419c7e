"""Train the small model on one GPU: python -m training.train --prepared DIR --out DIR --minutes 8

The schedule follows the clock, so that any GPU finishes in the time given; the log says what it came to.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch._dynamo
import transformers
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import AutoModelForCausalLM, AutoTokenizer

from training import merging
from training.data import ANSWER, LENGTH, WEIGHTS, Row, Rows
from training.merging import Functions
from training.network import FIRST_EVIDENCE_LAYER, new_model
from training.trees import WIDTHS, Tree, Trees

_EVIDENCE_RAMP = 300
_HEIGHTS = (2, 2, 3, 3, 4, 4, 4, 4, 5, 6, 6, 7, 7)
_MAX_CHUNK_LEN = 512


class Batches(IterableDataset[tuple[dict[str, Tensor], dict[str, Tensor]]]):
    """Batches of rows and of trees, a different stream in every worker."""

    def __init__(self, folder: Path, rows: int, trees: int, seed: int) -> None:
        self.folder, self.sizes, self.seed = folder, (rows, trees), seed

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        rows = Rows(self.folder, tokenizer, self.seed * 1000 + (worker.id if worker else 0))
        streams, trees = iter(rows), Trees(rows)
        while True:
            width = WIDTHS[rows.random.random() < 0.2]
            yield collate(islice(streams, self.sizes[0])), collate(islice(trees.draw(width), self.sizes[1]))


def collate(samples: Iterator[Row] | Iterator[Tree]) -> dict[str, Tensor]:
    """Rows or trees as one tensor for each of their fields, (batch, ...)."""
    listed = [vars(sample) for sample in samples]
    return {name: torch.from_numpy(np.stack([sample[name] for sample in listed])) for name in (listed or [{}])[0]}


def row_losses(model: Any, batch: dict[str, Tensor], weights: Tensor, use: Functions) -> tuple[Tensor, ...]:
    """Language loss, evidence loss, and right answers: tokens right, tokens asked."""
    ids, kinds, context = batch["ids"].long(), batch["kinds"].long(), batch["context"].long()
    index = torch.arange(LENGTH, device=ids.device)
    inside = (index >= context[:, :1]) & (index < context[:, 1:])
    asking, facts = batch["queries"].long().unbind(2)
    wanted = (batch["owners"].long()[:, None] == facts[:, :, None]) & inside[:, None] & (asking >= 0)[..., None]
    hidden = model.model.embed_tokens(ids)
    rotary = model.model.rotary_emb(hidden, index.expand(len(ids), -1))
    evidence = []
    for number, layer in enumerate(model.model.layers):
        hidden, looks, _, _ = use.run(layer, hidden, rotary, asking.clamp_min(0))
        if number >= FIRST_EVIDENCE_LAYER:
            evidence.append(use.evidence(looks, inside, wanted))
    language, right = use.answer(model, hidden, ids, weights[kinds])
    asked = kinds[:, 1:] == ANSWER
    return language, torch.stack(evidence).mean(), (right & asked).sum(), asked.sum()


def learning_rate(step: int, progress: float, peak: float, decay_from: float, warmup: int) -> float:
    """Linear warmup over so many steps, a flat stretch, linear decay over the last part."""
    return peak * min(1.0, (step + 1) / warmup, max(0.0, (1 - progress) / (1 - decay_from)))


def tree_measures(tree: merging.Result, trees: dict[str, Tensor]) -> dict[str, Tensor]:
    """What to log of a batch of trees."""
    known = trees["known"] & (trees["asked"] > 0)
    return {
        "tree_answer": tree.answer,
        "tree_evidence": tree.evidence,
        "tree_reading": tree.reading,
        "tree_right": (tree.right & known).sum() / known.sum(),
        "tree_first_right": tree.right[:, 0].float().mean(),
        "tree_first_survived": (tree.survived * known)[:, 0].sum() / known[:, 0].sum().clamp_min(1),
    }


def compiled(functions: Functions) -> Functions:
    """The functions that take time, compiled anew for each of the few shapes there are."""
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    names = ("run", "read", "answer")
    return dataclasses.replace(
        functions, **{name: torch.compile(getattr(functions, name), dynamic=False) for name in names}
    )


class Trainer:
    """One run: the model, its optimizer, and a step at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.random = options, Random(options.seed)
        torch.manual_seed(options.seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(options.prepared / "tokenizer")
        self.model = self._model().to(self.device)
        self.weights = torch.tensor(WEIGHTS, device=self.device)
        self.functions = Functions()
        if self.device == "cuda":
            self.functions = compiled(self.functions)
        self.optimizer = self._optimizer()

    def _model(self) -> Any:
        if self.options.init:
            return AutoModelForCausalLM.from_pretrained(self.options.init, dtype=torch.float32)
        return new_model(len(self.tokenizer), self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)

    def _optimizer(self) -> torch.optim.Optimizer:
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.options.rate, betas=(0.9, 0.95), fused=self.device == "cuda")

    def step(self, number: int, progress: float, batch: Any) -> dict[str, Tensor]:
        """One step of training; returns what to log."""
        rows, trees = ({name: t.to(self.device, non_blocking=True) for name, t in part.items()} for part in batch)
        options = self.options
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            language, evidence, right, asked = row_losses(self.model, rows, self.weights, self.functions)
            tree = self._trees(trees, progress) if trees else None
        ramp = 1.0 if options.init else min(1.0, number / _EVIDENCE_RAMP)
        looks = evidence if tree is None else evidence + 2 * tree.evidence + tree.reading
        loss = language + options.evidence_weight * ramp * looks
        if tree is not None:
            loss = loss + options.tree_weight * tree.answer
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                number, progress, self.options.rate, self.options.decay_from, self.options.warmup
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        measured = {"language": language, "evidence": evidence, "answers": right / asked.clamp_min(1)}
        if tree is not None:
            measured |= tree_measures(tree, trees)
        return {name: value.detach() for name, value in measured.items()}

    def _trees(self, trees: dict[str, Tensor], progress: float) -> merging.Result:
        height = self.random.choice(_HEIGHTS)
        layers = len(self.model.model.layers)
        shape = merging.draw_shape(self.random, layers, self.options.layers_warmup, height)
        share = max(0.0, 0.8 - progress)  # early on the fact is kept by force, so that there is something to read
        forced = torch.rand(len(trees["known"]), device=self.device) < share
        return merging.forward(self.model, merging.TreeBatch(**trees), shape, forced, _MAX_CHUNK_LEN, self.functions)

    def save(self, log: list[Any], steps: int, seconds: float) -> dict[str, Any]:
        """Write model, tokenizer and the log; returns the facts."""
        options = self.options
        facts = {
            "steps": steps,
            "seconds": round(seconds),
            "rows": steps * options.batch,
            "trees": steps * options.trees,
            "options": {
                name: str(value) for name, value in vars(options).items() if name not in ("prepared", "out", "init")
            },
            "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "log": log,
        }
        self.model.to(torch.bfloat16).save_pretrained(options.out, max_shard_size="16MB")
        self.tokenizer.save_pretrained(options.out)
        (options.out / "training.json").write_text(json.dumps(facts, indent=1))
        return facts


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train and save; returns the log."""
    trainer = Trainer(options)
    data = Batches(options.prepared, options.batch, options.trees, options.seed)
    loader = iter(DataLoader(data, batch_size=None, num_workers=options.workers, pin_memory=trainer.device == "cuda"))
    log: list[dict[str, float]] = []
    step, start = 0, time.time()
    while (progress := (time.time() - start) / (60 * options.minutes)) < 1:
        measured = trainer.step(step, max(0.0, progress), next(loader))
        if step < options.compile_steps:  # compiling is not training
            start = time.time()
        if step % 100 == 0:
            values = {name: round(value.item(), 4) for name, value in measured.items()}
            log.append({"step": step, "seconds": round(time.time() - start, 1)} | values)
            print(json.dumps(log[-1]), flush=True)
        step += 1
    return trainer.save(log, step, time.time() - start)


def main(arguments: list[str] | None = None) -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="what training.prepare wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=96, help="rows a step")
    parser.add_argument("--trees", type=int, default=32, help="trees a step; 0 for ordinary training")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay-from", type=float, default=0.6, help="share of the time after which the rate falls")
    parser.add_argument("--warmup", type=int, default=200, help="steps over which the rate rises")
    parser.add_argument("--evidence-weight", type=float, default=0.1)
    parser.add_argument("--tree-weight", type=float, default=0.5, help="of the answers read from compact caches")
    parser.add_argument("--init", type=Path, help="a model to go on from, instead of random weights")
    parser.add_argument("--layers-warmup", type=int, default=6, help="of the trees")
    parser.add_argument("--compile-steps", type=int, default=20, help="first steps, which the clock leaves out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=14)
    facts = train(parser.parse_args(arguments))
    print({name: facts[name] for name in ("steps", "seconds", "rows", "trees")})


if __name__ == "__main__":
    main()
