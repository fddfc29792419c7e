"""Measure the small model: python -m training.evaluate --model DIR --held-out held_out.npz --out results.json"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers

from homer import Calibration, CompactCache, HomerConfig, HomerModel, calibrate
from training.tasks import Case, Tasks, handbook_questions

TASKS = ("pass_key", "one_of_eight")
NEW_TOKENS = 24


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of answering: HOMER with settings, or the plain model, with a YaRN factor or without."""

    name: str
    config: dict[str, Any] | None = None
    calibration: str | None = None
    rope_scaling: float | None = None


def methods(grid: bool) -> list[Method]:
    """HOMER and its rivals; with `grid`, HOMER's settings one by one as well."""
    base = {"max_chunk_len": 512, "target_len": 512, "layers_warmup": 6, "chunk_batch_size": 16}
    chosen = [
        Method("homer", base, "prompts"),
        Method("plain"),
        *(Method(f"yarn-{factor}", rope_scaling=factor) for factor in (4, 8, 16, 32)),
    ]
    if grid:
        chosen += [
            Method("homer, calibrated on text", base, "text"),
            Method("homer, not calibrated", base),
            Method("homer, warmup 4", base | {"layers_warmup": 4}, "prompts"),
            Method("homer, warmup 8", base | {"layers_warmup": 8}, "prompts"),
            Method("homer, suffix not refreshed", base | {"refresh_suffix": False}, "prompts"),
        ]
    return chosen


_STATE: dict[Any, Any] = {}


def _load(options: argparse.Namespace, method: Method) -> tuple[HomerModel, Tasks]:
    """The model for a method, loaded once a process."""
    key = (method.calibration, method.rope_scaling)
    if key not in _STATE:
        torch.set_num_threads(1 if options.workers > 1 else torch.get_num_threads())
        path = options.out / f"calibration_{method.calibration}.safetensors" if method.calibration else None
        device = f"cuda:{os.getpid() % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
        model = HomerModel.from_pretrained(
            options.model,
            calibration=path,
            rope_scaling=method.rope_scaling,
            device_map=device,
            dtype=torch.float32,
            fast=False,
        )
        if path is None:
            model.calibration = None
        _STATE[key] = model, Tasks(model, options.held_out)
    loaded: tuple[HomerModel, Tasks] = _STATE[key]
    return loaded


def measure(options: argparse.Namespace, method: Method, task: str, length: int, seed: int) -> dict[str, Any]:
    """Answer one case; says whether the answer was right, and the share of the evidence that survived."""
    model, tasks = _load(options, method)
    case = tasks.case(task, length, seed)
    if method.config is None:
        text, survived = plain_answer(model, case), 1.0
    else:
        parts = case.prompt.prefix_ids, case.prompt.context_ids, case.prompt.suffix_ids
        cache = model.compress(*parts, config=HomerConfig(**method.config))
        text = model.generate(cache, NEW_TOKENS).text or ""
        survived = survival(case, cache)
    right = text.strip() == case.answer
    facts = {"method": method.name, "task": task, "length": length, "seed": seed}
    return facts | {
        "tokens": len(case.prompt),
        "right": right,
        "survived": survived,
        "said": text,
        "answer": case.answer,
    }


def plain_answer(model: HomerModel, case: Case) -> str:
    """What the model says after a full prefill, however long."""
    parts = case.prompt.prefix_ids, case.prompt.context_ids, case.prompt.suffix_ids
    ids = torch.cat(parts)[None].to(model.decoder.device)
    generate: Any = model.model.generate
    output = generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, logits_to_keep=1
    )
    text: str = model.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def survival(case: Case, cache: CompactCache) -> float:
    """The share of the tokens of the statement with the answer that are in the cache."""
    kept = set((cache.kept_tokens - cache.prefix_len).tolist())
    for number, document in enumerate(case.prompt.documents):
        start = document.text.find(case.statement)
        if start >= 0:
            origins = case.prompt.origins
            end = start + len(case.statement)
            inside = (origins[:, 0] == number) & (origins[:, 2] > start) & (origins[:, 1] < end)
            tokens = inside.nonzero().flatten().tolist()
            return sum(token in kept for token in tokens) / len(tokens)
    raise AssertionError("the statement is in no document")


def calibrations(options: argparse.Namespace, segment_len: int = 512) -> None:
    """Write the two calibrations: on running text, and on prompts that do not hold the answer."""
    model, tasks = _load(options, Method("", None, None))
    tokens = tasks.texts.tokens
    text = [torch.from_numpy(tokens[i : i + segment_len].astype("int64")) for i in range(0, 400_000, 2000)]
    prompts = []
    for seed in range(400):
        prompt = tasks.absent(segment_len, seed)
        room = segment_len - len(prompt.prefix_ids) - len(prompt.suffix_ids)
        prompts.append(torch.cat([prompt.prefix_ids, prompt.context_ids[:room], prompt.suffix_ids]))
    for name, ids in (("text", text), ("prompts", prompts)):
        result: Calibration = calibrate(model, ids, segments=len(ids), segment_len=segment_len, batch_size=16)
        result.save(options.out / f"calibration_{name}.safetensors")


def table(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy and survival of every method, task and length."""
    rows = []
    groups = sorted({(r["method"], r["task"], r["length"]) for r in results}, key=str)
    for method, task, length in groups:
        group = [r for r in results if (r["method"], r["task"], r["length"]) == (method, task, length)]
        right, survived = (sum(r[k] for r in group) / len(group) for k in ("right", "survived"))
        rows.append(
            {"method": method, "task": task, "length": length, "samples": len(group)}
            | {"accuracy": round(right, 3), "survival": round(survived, 3)}
        )
    return rows


def _measure_all(options: argparse.Namespace, jobs: list[Any]) -> Iterator[dict[str, Any]]:
    """Measure job by job, in processes if asked to; every result is written down at once."""
    columns = list(zip(*((options, *job) for job in jobs), strict=True))
    with (
        ProcessPoolExecutor(options.workers, get_context("spawn")) as pool,
        (options.out / "cases.jsonl").open("w") as file,
    ):
        results = pool.map(measure, *columns, chunksize=4) if options.workers > 1 else map(measure, *columns)
        for result in results:
            file.write(json.dumps(result) + "\n")
            file.flush()
            yield result


def main(arguments: list[str] | None = None) -> None:
    """Read the options, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1000, 4000, 16000, 32000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--grid", action="store_true", help="HOMER's settings one by one as well")
    parser.add_argument("--handbook", type=int, default=0, help="questions about the demo's documents as well")
    parser.add_argument("--only", nargs="+", help="names of methods; all of them unless given")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.time()
    chosen = [method for method in methods(options.grid) if not options.only or method.name in options.only]
    if any(method.calibration for method in chosen):
        calibrations(options)
    jobs = list(itertools.product(chosen, TASKS, options.lengths, range(options.samples)))
    asked = range(min(len(handbook_questions()), options.handbook))
    jobs += list(itertools.product(chosen, ["handbook"], [20000], asked))
    results = list(_measure_all(options, jobs))
    rows = table(results)
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    summary = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "versions": versions, "table": rows}
    (options.out / "results.json").write_text(json.dumps(summary, indent=1))
    for row in rows:
        print(f"{row['method']:30} {row['task']:14} {row['length']:6} {row['accuracy']:.3f} {row['survival']:.3f}")
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
