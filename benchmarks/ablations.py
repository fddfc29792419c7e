"""Ablations on the shipped model: what each setting of the method does to retrieval, as a table.

    python benchmarks/ablations.py --out benchmarks/results/ablations

Every variant answers the same cases: pass keys in filler, and one door code among other text. "Evidence" is the share
of the tokens of the number asked for that were still in the compact cache, at the top layer.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import shared
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache

from homer import HomerConfig, HomerModel, calibrate
from homer.demo import DOCUMENTS
from homer.experiments import Case, Setup, needle_cases, passkey_cases
from homer.experiments.cases import CaseTokenizer
from homer.experiments.report import align, write_csv
from homer.experiments.retrieval import read_text
from homer.merging.chunk import Chunk, merge
from homer.merging.walk import Walk
from homer.significance.scoring import Scoring
from homer.text.tokenizing import Piece, PieceTokenizer

NEW_TOKENS = 16
Answer = tuple[str, Tensor]  # what was said, and the indices of the prompt's tokens that survived to the top
Variant = Callable[[Tensor, Tensor, Tensor], Answer]


def variants(model: HomerModel, text: Path) -> dict[str, Variant]:
    """The shipped settings, and each of them changed by itself."""
    base = dataclasses.replace(model.config, significance="paper")

    @functools.cache
    def calibrated() -> HomerModel:
        return HomerModel(model.model, model.tokenizer, base, calibrate(model, [read_text(text)]))

    plain = HomerModel(model.model, model.tokenizer, base)
    unrefreshed = dataclasses.replace(base, refresh_suffix=False)

    def changed(**settings: Any) -> Variant:
        return lambda *parts: compressed(model, dataclasses.replace(base, **settings), *parts)

    return {
        "as shipped": changed(),
        "not calibrated": lambda *parts: compressed(plain, base, *parts),
        "calibrated on text": lambda *parts: compressed(calibrated(), base, *parts),
        "suffix not refreshed": changed(refresh_suffix=False),
        "not calibrated, not refreshed": lambda *parts: compressed(plain, unrefreshed, *parts),
        "lower layers keep all": lambda *parts: unrefined(model, *parts),
        "max_chunk_len 256": changed(max_chunk_len=256, target_len=256),
        "max_chunk_len 256, target 512": changed(max_chunk_len=256, target_len=512),
        "warmup 2": changed(layers_warmup=2),
        "warmup 4": changed(layers_warmup=4),
        "warmup 10": changed(layers_warmup=10),
        "chunk_batch_size 1": changed(chunk_batch_size=1),
        "chunk_batch_size 16": changed(chunk_batch_size=16),
    }


def compressed(model: HomerModel, config: HomerConfig, prefix: Tensor, context: Tensor, suffix: Tensor) -> Answer:
    """The library's own way."""
    cache = model.compress(prefix, context, suffix, config=config)
    return model.generate(cache, NEW_TOKENS).text or "", cache.kept_tokens


@dataclasses.dataclass(frozen=True)
class UnrefinedChunk(Chunk):
    """A chunk whose pruned tokens stay in the caches of the layers that saw them: no propagative refinement."""

    def keep(self, indices: Tensor) -> Chunk:
        """Only what goes on to higher layers is pruned."""
        hidden, positions = self.hidden_states[:, indices], self.position_ids[:, indices]
        return dataclasses.replace(self, hidden_states=hidden, position_ids=positions, tokens=self.tokens[indices])


def unrefined(model: HomerModel, prefix: Tensor, context: Tensor, suffix: Tensor) -> Answer:
    """The method with each layer keeping whatever it saw, so that the cache of the lower layers grows with the context.

    Caches differ in length by layer, so the real suffix is run again token by token, as the answer is.
    """
    plan = model.plan(len(prefix), len(context), len(suffix))
    ids = torch.cat([prefix, context, suffix])
    with torch.no_grad():
        root = fold(Walk(model.decoder, plan, ids, Scoring(calibration=model.calibration)), plan.height, 0)
        cache = DynamicCache()
        for layer, (key, value) in enumerate(root.entries):
            cache.update(key[:, :, : -len(suffix)], value[:, :, : -len(suffix)], layer)
        said: list[int] = []
        last, pending = plan.suffix_start, suffix.tolist()
        while len(said) < NEW_TOKENS:
            token, position = (torch.tensor([[n]], device=model.decoder.device) for n in (pending.pop(0), last))
            logits = model.decoder.extend(token, position, cache, keep=1)
            last += 1
            if not pending:
                said.append(int(logits[0, -1].argmax()))
                pending = said[-1:]
                if said[-1] == model.tokenizer.eos_token_id:
                    break
    return model.tokenizer.decode(said, skip_special_tokens=True), root.tokens


def fold(walk: Walk, level: int, index: int) -> Chunk:
    """A node of the tree after its layers and its pruning, with the nodes below it."""
    first, end = walk.plan.layers[level]
    if level:
        chunk = merge(*(fold(walk, level - 1, 2 * index + side) for side in (0, 1))).settled()
    else:
        chunk = UnrefinedChunk(**vars(walk.leaf(index)))
    if first == end:
        return chunk
    output = walk.decoder.run(first, end, chunk.hidden_states, chunk.position_ids, walk.observed(level))
    hidden = chunk.hidden_states if output.hidden_states is None else output.hidden_states
    chunk = chunk.run(hidden, output.entries.each(lambda tensor: tensor))  # layers differ in length: no stack
    kept = walk.choose(chunk, (output.observed, output.attention), 0, level, index).kept
    return chunk if kept is None else chunk.keep(kept)


def evidence(case: Case, pieces: PieceTokenizer, prefix_len: int, kept: Tensor) -> float:
    """The share of the tokens of the case's values that survived."""
    offsets = pieces.tokenize(Piece(case.context)).offsets
    spans = [(case.context.find(value), case.context.find(value) + len(value)) for value in case.targets]
    wanted = {i + prefix_len for i, (a, b) in enumerate(offsets) if any(a < end and b > start for start, end in spans)}
    return len(wanted & set(kept.tolist())) / len(wanted)


def measure(name: str, answer: Variant, task: str, cases: Sequence[Case], tokenizer: Any) -> list[dict[str, Any]]:
    """One row for each length of the cases."""
    cases_of, plain = CaseTokenizer(tokenizer), PieceTokenizer(tokenizer)
    rows = []
    for length in sorted({case.length for case in cases}):
        group = [case for case in cases if case.length == length]
        found, survived, seconds = 0.0, 0.0, 0.0
        for case in group:
            parts = cases_of.tokenize(case)
            start = time.perf_counter()
            said, kept = answer(*parts)
            seconds += time.perf_counter() - start
            found += case.found(said)
            survived += evidence(case, plain, len(parts[0]), kept)
        means = {"accuracy": found / len(group), "evidence": survived / len(group), "seconds": seconds / len(group)}
        row = {"variant": name, "task": task, "length": length, "samples": len(group)}
        rows.append(row | {key: round(value, 3) for key, value in means.items()})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Variants down; for each task and length accuracy, evidence and seconds a case across."""
    columns = list(dict.fromkeys((row["task"], row["length"]) for row in rows))
    cells = {(row["variant"], row["task"], row["length"]): row for row in rows}
    header = ["accuracy / evidence / seconds", *(f"{task} {length:,}" for task, length in columns)]
    lines = [
        [name, *(_cell(cells[name, *column]) for column in columns)]
        for name in dict.fromkeys(row["variant"] for row in rows)
    ]
    return align([header, *lines])


def _cell(row: dict[str, Any]) -> str:
    return f"{row['accuracy']:.2f} / {row['evidence']:.2f} / {row['seconds']:.1f}"


@functools.cache
def _prepared(model: str, device: str | None, lengths: tuple[int, ...], samples: int, seed: int, haystack: Path) -> Any:
    """The model, its variants and the cases of both tasks; once a process."""
    loaded = HomerModel.from_pretrained(model, dtype=torch.float32, device_map=device)
    setup = Setup(loaded, ("homer",), seed=seed)
    made = {"context_lengths": lengths, "samples": samples}
    tasks = {"passkey": passkey_cases(setup, **made), "needle": needle_cases(setup, haystack, **made)}
    return loaded, variants(loaded, haystack), tasks


def run_variant(options: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """The rows of one variant."""
    torch.set_num_threads(1 if options.workers > 1 else torch.get_num_threads())
    lengths = tuple(options.context_lengths)
    given = options.model, options.device, lengths, options.samples, options.seed, options.haystack
    model, known, tasks = _prepared(*given)
    return [row for task, cases in tasks.items() for row in measure(name, known[name], task, cases, model.tokenizer)]


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of every variant that was asked for, in processes if asked to."""
    known = variants(HomerModel.from_pretrained(options.model), options.haystack)
    names = options.only or list(known)
    if unknown := set(names) - set(known):
        raise SystemExit(f"no variant is called {sorted(unknown)}: the variants are {', '.join(known)}")
    if options.workers == 1:
        return [row for name in tqdm(names, desc="variants") for row in run_variant(options, name)]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        groups = pool.map(functools.partial(run_variant, options), names)
        return [row for rows in tqdm(groups, desc="variants", total=len(names)) for row in rows]


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure every variant, print the table, and write JSON and CSV where a folder is given."""
    parser = argparse.ArgumentParser(description="Ablations of the method on the shipped model.")
    parser.add_argument("--model", default="mini", help="a hub id, a folder, or mini (default)")
    parser.add_argument("--device", help="such as cuda (default: the CPU)")
    parser.add_argument("--context-lengths", nargs="+", type=int, default=[2048, 8192])
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--haystack", type=Path, default=DOCUMENTS, help="text for needles and for the calibration")
    parser.add_argument("--only", nargs="+", help="variants, by name")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for ablations.json and ablations.csv")
    options = parser.parse_args(arguments)
    rows = measured(options)
    print(table(rows))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        model = HomerModel.from_pretrained(options.model)
        facts = {"model": options.model, "fingerprint": model.decoder.fingerprint, "seed": options.seed}
        shared.write_json(options.out / "ablations.json", facts | shared.facts() | {"rows": rows})
        write_csv(options.out / "ablations.csv", rows)
    return rows


if __name__ == "__main__":
    main()
