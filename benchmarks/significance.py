"""What each significance keeps of the evidence, and what is answered from it, beyond the window: one table.

    python benchmarks/significance.py --model shipped=mini ordinary=DIR --held-out held_out.npz --out DIR --workers 30

Every case is compressed with every significance, on leaves that run only once (`training.levels`). Names, wordings and
books are held out from training. The ceiling is the plain model's accuracy inside its window.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import shared
import torch
from torch import Tensor
from variants import CALIBRATIONS, Variant, in_case, variants

from homer import Calibration, HomerModel, calibrate, load_calibration
from homer.significance.sentences import Sentences
from training.evaluate import plain_answer
from training.levels import Levels, Nodes, even_plan
from training.tasks import Case, Tasks

TASKS = ("pass_key", "one_fact", "one_of_eight", "several_values", "reworded")
NEW_TOKENS = 24
BLOCK = 50  # samples that a model gets before the next one's turn
CEILING = "plain, inside the window"


_STATE: dict[Any, Any] = {}


@dataclasses.dataclass(frozen=True)
class Bench:
    """A model with all its calibrations, on one device."""

    model: HomerModel
    tasks: Tasks
    calibrations: dict[str, Calibration]
    sentences: Sentences

    def measure(self, task: str, length: int, seed: int, chosen: Sequence[Variant]) -> list[dict[str, Any]]:
        """One row for each variant."""
        case = self.tasks.case(task, length, seed)
        facts = {"task": task, "length": length, "seed": seed, "answer": case.answer}
        evidence = evidence_tokens(case)
        rows = []
        for settings, group in itertools.groupby(chosen, key=lambda variant: variant.config):
            together = list(group)
            for variant, root, text in self._answers(case, evidence, dict(settings), together):
                kept = set(root.tolist())
                survived = [sum(i in kept for i in tokens) / len(tokens) for tokens in evidence]
                rows.append(
                    facts
                    | {"variant": variant.name, "said": text, "right": is_right(text, case)}
                    | {"survived": sum(survived) / len(survived), "whole": max(survived) == 1}
                )
        return rows

    def ceiling(self, task: str, length: int, seed: int) -> list[dict[str, Any]]:
        """The plain model, where everything fits."""
        case = self.tasks.case(task, length, seed)
        text = plain_answer(self.model, case)
        row = {"task": task, "length": length, "seed": seed, "answer": case.answer, "variant": CEILING, "said": text}
        return [row | {"right": is_right(text, case), "survived": 1.0, "whole": True}]

    def _answers(
        self, case: Case, evidence: list[list[int]], settings: dict[str, Any], group: Sequence[Variant]
    ) -> Iterator[tuple[Variant, Tensor, str]]:
        """For every variant the indices of the context that survived, and what was said."""
        model = self.model
        if settings:
            config = dataclasses.replace(model.config, **settings)
            model = HomerModel(model.model, model.tokenizer, config, model.calibration)
        context = case.prompt.context_ids
        spare = torch.ones(len(context), dtype=torch.bool)
        spare[list(itertools.chain(*evidence))] = False
        plan, parts, kept = even_plan(model, (case.prompt.prefix_ids, context, case.prompt.suffix_ids), spare)
        levels = Levels(model, parts, plan, self.sentences)
        numbers = case.prompt.origins[kept, 0].long()
        numbers = torch.nn.functional.pad(numbers, (plan.prefix_len, plan.suffix_len), value=-1)
        roots: list[Nodes] = [
            levels.fold(in_case(v.significance, numbers), self.calibrations[v.calibration] if v.calibration else None)
            for v in group
        ]
        end = frozenset({model.tokenizer.eos_token_id})
        texts = [model.tokenizer.decode(ids) for ids in levels.read(roots, NEW_TOKENS, end)]
        for variant, root, text in zip(group, roots, texts, strict=True):
            indices = root.tokens[0, plan.prefix_len : -plan.suffix_len].cpu() - plan.prefix_len
            yield variant, kept[indices], text


def is_right(text: str, case: Case) -> bool:
    """Whether the answer is exactly a right one."""
    return text.strip() in (case.answers or (case.answer,))


def evidence_tokens(case: Case) -> list[list[int]]:
    """Of every sentence that states a right answer, the indices of its tokens in the context."""
    number, start, end = case.prompt.origins.unbind(1)
    found = []
    for answer, statement in zip(case.answers, case.statements, strict=True):
        parts = [part for part in re.split(r"(?<=[.!?]) ", statement) if answer in part]
        for sentence in parts or [statement]:  # an answer such as an instruction may itself be two sentences
            for i, document in enumerate(case.prompt.documents):
                at = document.text.find(sentence)
                if at >= 0:
                    inside = (number == i) & (end > at) & (start < at + len(sentence))
                    found.append(inside.nonzero().flatten().tolist())
    return found


def _bench(options: argparse.Namespace, name: str) -> Bench:
    """The model of this name with what belongs to it, loaded once a process."""
    if name not in _STATE:
        torch.set_num_threads(1)
        device = f"cuda:{os.getpid() % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
        model = HomerModel.from_pretrained(options.models[name], dtype=torch.float32, device_map=device, fast=False)
        files = {kind: options.out / f"calibration-{name}-{kind}.safetensors" for kind in CALIBRATIONS}
        loaded = {kind: load_calibration(file) for kind, file in files.items() if file.is_file()}
        _STATE[name] = Bench(model, Tasks(model, options.held_out), loaded, Sentences(model.tokenizer))
    bench: Bench = _STATE[name]
    return bench


def run_job(options: argparse.Namespace, name: str, task: str, length: int, seed: int) -> list[dict[str, Any]]:
    """One case with all variants; length 0 stands for the ceiling."""
    with torch.no_grad():
        bench = _bench(options, name)
        rows = (
            bench.measure(task, length, seed, variants(options.variants))
            if length
            else bench.ceiling(task, int(0.95 * bench.model.window), seed)
        )
    return [{"model": name} | row for row in rows]


def calibrate_job(options: argparse.Namespace, name: str, kind: str) -> tuple[str, str]:
    """Measure a calibration and write it down, unless it is there; the model is loaded anew when all are."""
    path = options.out / f"calibration-{name}-{kind}.safetensors"
    if path.is_file():
        return name, kind
    bench = _bench(options, name)
    length = bench.model.window if kind == "long" else 512
    if kind != "books":
        result = calibrate(
            bench.model, segments=100, segment_len=length, prompts=options.prompts, heads=True, batch_size=16
        )
    else:
        tokens = torch.from_numpy(bench.tasks.texts.tokens.astype("int64"))
        text = bench.model.tokenizer.decode(tokens[:100_000])
        result = calibrate(bench.model, text, segment_len=length, prompts=options.prompts, heads=True, batch_size=16)
    result.save(path)
    _STATE.pop(name)
    return name, kind


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means of every model, variant, task and length."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in ("model", "variant", "task", "length")), []).append(row)
    return [
        dict(zip(("model", "variant", "task", "length"), key, strict=True))
        | {"samples": len(group)}
        | {k: round(sum(row[k] for row in group) / len(group), 3) for k in ("right", "survived", "whole")}
        for key, group in groups.items()
    ]


def markdown(cells: Sequence[dict[str, Any]], model: str) -> str:
    """Variants down, tasks and lengths across: accuracy (share of cases whose evidence survived).

    Evidence is a sentence with a right answer, and it survived where all of it did.
    """
    mine = [cell for cell in cells if cell["model"] == model]
    columns = sorted({(TASKS.index(c["task"]), c["length"]) for c in mine if c["variant"] != CEILING})
    names = list(dict.fromkeys(cell["variant"] for cell in mine))
    found = {(c["variant"], c["task"], c["length"]): c for c in mine}
    ceilings = {c["task"]: c for c in mine if c["variant"] == CEILING}
    lines = [["variant", *(f"{TASKS[t].replace('_', ' ')} {n:,}" for t, n in columns)]]
    for name in names:
        line = [ceilings.get(TASKS[t]) if name == CEILING else found.get((name, TASKS[t], n)) for t, n in columns]
        lines.append([name, *(_cell(cell, name == CEILING) for cell in line)])
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


def _cell(cell: dict[str, Any] | None, ceiling: bool) -> str:
    if cell is None:
        return "-"
    return f"{cell['right']:.2f}" + ("" if ceiling else f" ({cell['whole']:.2f})")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Calibrate, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", nargs="+", default=["shipped=mini"], metavar="NAME=FOLDER")
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=200, help="prompts of a calibration")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--variants", nargs="+", help="names of variants, or all; default: those that matter most")
    parser.add_argument("--limit-s", type=float, default=1e9, help="begin nothing later; what was measured is written")
    options = parser.parse_args(arguments)
    options.models = dict(item.split("=", 1) for item in options.model)
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.time()
    rows = list(_measure_all(options, start))
    cells = table(rows)
    result = {"seconds": time.time() - start, "table": cells}
    text = "\n\n".join(f"{name}\n\n{markdown(cells, name)}" for name in options.models)
    shared.write_results(options.out, "significance", result, [text])
    print(text)
    print(f"{time.time() - start:.0f} s")
    return result


def _measure_all(options: argparse.Namespace, start: float) -> Iterator[dict[str, Any]]:
    """Case by case, in processes if asked to; every row is written down at once, and nothing begun after the limit."""
    kinds = sorted({variant.calibration for variant in variants(options.variants) if variant.calibration})
    jobs = [
        (name, task, length, seed)
        for block in range(0, options.samples, BLOCK)
        for name in options.models
        for seed in range(block, min(block + BLOCK, options.samples))
        for length, task in itertools.product([*options.lengths, 0], options.tasks)
    ]
    pool = ProcessPoolExecutor(options.workers, get_context("spawn"))
    run: Any = pool.map if options.workers > 1 else map
    for name, kind in run(calibrate_job, *_columns(options, itertools.product(options.models, kinds))):
        print(f"{name} calibrated on {kind} after {time.time() - start:.0f} s", flush=True)
    with (options.out / "cases.jsonl").open("w") as file:
        for found in run(run_job, *_columns(options, jobs)):
            for row in found:
                file.write(json.dumps(row) + "\n")
            file.flush()
            yield from found
            if time.time() - start > options.limit_s:
                break
    pool.shutdown(cancel_futures=True)


def _columns(options: argparse.Namespace, jobs: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """The arguments of all jobs, by argument, as `map` wants them."""
    rows = [(options, *job) for job in jobs]
    return [list(column) for column in zip(*rows, strict=True)] or [[], [], []]


if __name__ == "__main__":
    main()
