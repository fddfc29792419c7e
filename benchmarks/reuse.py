"""What a second question costs, where the first one's states are kept: on the GPU, in pinned memory and on disk.

    python benchmarks/reuse.py --out reuse.json            # 7B and 8B shapes, 64k and 128k tokens, within 150 seconds
    python benchmarks/reuse.py --tiny                      # a toy on the CPU, in seconds
    python benchmarks/reuse.py --demo                      # the demo's documents and the model that ships, on the CPU:
                                                           # seconds of the process, not of the clock

Times are until the first token's logits are there. Beside HOMER stands the plain model, whose full cache of keys and
values is kept for the second question. Weights are random, as in speed.py. All ratios are of one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shared import free_memory, timed, write_json
from speed import SHAPES, build, new_report, pair, prefill
from torch import Tensor

import homer
from homer import HomerConfig, HomerModel, StateStore

GB = 1e9
COLUMNS = ("scratch_s", "first_s", "second_s", "pinned_s", "disk_s", "plain_first_s", "plain_second_s", "kept_gb",
           "plain_gb", "kept_alike", "second_vs_first", "pinned_vs_first")  # fmt: skip


class Bench:
    """Measures one shape; every length gives a row."""

    def __init__(self, options: argparse.Namespace, name: str) -> None:
        self.options, self.name = options, name
        self.device, dtype = torch.device(options.device), getattr(torch, options.dtype)
        self.shape = dataclasses.replace(SHAPES[name], bytes_each=dtype.itemsize)
        self.model = build(self.shape, self.device, dtype, options.attention)
        chunk = min(options.max_chunk_len, self.shape.window // 2)
        warmup = min(options.layers_warmup, self.shape.layers * 12 // 32)
        settings = {
            "max_chunk_len": chunk, "target_len": chunk, "layers_warmup": warmup, "suffix_budget": options.budget,
        } | dict(options.config)  # fmt: skip
        self.kept: Tensor | None = None
        self.homer = HomerModel(self.model, config=HomerConfig(**settings), **dict(options.model_option))

    def run(self, length: int) -> dict[str, Any]:
        """Measure one length; a part that fails or has no time left leaves a note."""
        row: dict[str, Any] = {"shape": self.name, "length": length, "notes": []}
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(0, self.shape.vocabulary, (length,), generator=generator)
        affix, budget = self.options.affix_len, self.options.budget
        context = ids[affix:-budget]
        if not self.options.as_given:
            room = (self.homer.config.max_chunk_len or 0) - affix - budget
            context = context[: room * 2 ** max(0, (len(context) // room).bit_length() - 1)]
        parts = ids[:affix], context, ids[-budget:]
        row["tokens"], self.kept = sum(map(len, parts)), None
        for measure in (self._scratch, self._encoded, self._plain):
            if self.left() < 0:
                row["notes"].append(f"{measure.__name__}: no time left")
                continue
            try:
                measure(row, *parts)
            except torch.OutOfMemoryError:
                row["notes"].append(f"{measure.__name__}: out of memory")
            except Exception as error:  # one part must not end the run
                row["notes"].append(f"{measure.__name__}: {type(error).__name__}: {error}")
            free_memory()
        for name in ("second", "pinned", "disk", "scratch"):
            if f"{name}_s" in row and "first_s" in row:
                row[f"{name}_vs_first"] = row[f"{name}_s"] / row["first_s"]
        if "plain_second_s" in row and "second_s" in row:
            row["plain_second_vs_second"] = row["plain_second_s"] / row["second_s"]
        return row

    def _scratch(self, row: dict[str, Any], prefix: Tensor, context: Tensor, suffix: Tensor) -> None:
        row["scratch_s"], row["scratch_runs"] = self._times(lambda: self.homer.compress(prefix, context, suffix))
        self.kept = self.homer.compress(prefix, context, suffix).kept_tokens.cpu()

    def _encoded(self, row: dict[str, Any], prefix: Tensor, context: Tensor, suffix: Tensor) -> None:
        def encode(**options: Any) -> homer.EncodedContext:
            return self.homer.encode(context, prefix=prefix, suffix_budget=self.options.budget, **options)

        def first() -> homer.EncodedContext:
            encoded = encode()
            self.homer.compress_encoded(encoded, suffix)
            return encoded

        held: list[Any] = []

        def again() -> None:
            held.clear()
            held.append(first())

        row["first_s"], row["first_runs"] = self._times(again)
        encoded = held.pop()
        if self.kept is not None:  # rounding alone may tell them apart
            found = self.homer.compress_encoded(encoded, suffix).kept_tokens.cpu()
            row["kept_alike"] = torch.isin(found, self.kept).float().mean().item()
        other = suffix.flip(0)
        row["second_s"], row["second_runs"] = self._times(lambda: self.homer.compress_encoded(encoded, other), 3)
        row["kept_gb"], row["leaves"] = encoded.nbytes / GB, len(encoded.leaves)
        row["kept_bytes_per_token"] = encoded.nbytes / len(encoded)
        plan = self.homer.plan(len(prefix), len(context), len(suffix))
        row["chunk_layers"] = [
            len(n) * (end - first) for n, (first, end) in zip(plan.lengths, plan.layers, strict=True)
        ]
        self._disk(row, encode, encoded, other)
        if encoded.nbytes > self.options.pinned_gb * GB:
            row["notes"].append("pinned: left out, beyond --pinned-gb")
            return
        row["pin_s"], encoded = timed(encoded.to_pinned_memory, self.device)
        free_memory()
        row["pinned_s"], row["pinned_runs"] = self._times(lambda: self.homer.compress_encoded(encoded, other), 3)

    def _disk(self, row: dict[str, Any], encode: Callable[..., Any], encoded: Any, suffix: Tensor) -> None:
        """A new process's question: the states of every leaf read, checked and fetched."""
        if encoded.nbytes > self.options.disk_gb * GB:
            row["notes"].append("disk: left out, beyond --disk-gb")
            return
        with tempfile.TemporaryDirectory(dir=self.options.folder) as folder:
            row["write_s"], _ = timed(lambda: encode(store=StateStore(folder, device_bytes=0)), self.device)
            held: list[Any] = []

            def ask() -> None:
                held.clear()
                held.append(encode(store=StateStore(folder, device_bytes=0)))
                self.homer.compress_encoded(held[0], suffix)

            row["disk_s"], row["disk_runs"] = self._times(ask)
            row["from_disk"] = held[0].reused_tokens
            row["disk_gb"] = StateStore(folder).nbytes["disk"] / GB

    def _plain(self, row: dict[str, Any], prefix: Tensor, context: Tensor, suffix: Tensor) -> None:
        """The whole prompt, and then the suffix alone on top of everything before it."""
        ids = torch.cat([prefix, context, suffix])[None].to(self.device)
        row["plain_first_s"], cache = timed(lambda: prefill(self.model, ids), self.device)
        row["plain_gb"] = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) / GB
        kept = ids.shape[1] - len(suffix)  # the cache holds the suffix as well, which every run takes off first
        positions = torch.arange(kept, ids.shape[1], device=self.device)[None]

        def second() -> None:
            cache.crop(-len(suffix))
            with torch.no_grad():
                self.model(
                    ids[:, kept:], past_key_values=cache, position_ids=positions, use_cache=True, logits_to_keep=1
                )

        row["plain_second_s"], row["plain_second_runs"] = self._times(second, 2)

    def _times(self, call: Callable[[], Any], repeats: int = 1) -> tuple[float, list[float]]:
        """The median after one run to warm up, and all times."""
        times = []
        while len(times) <= repeats:
            times.append(timed(call, self.device)[0])
        return statistics.median(times[1:]), times

    def left(self) -> float:
        """Seconds until the limit."""
        return float(self.options.limit_s - (time.perf_counter() - self.options.start))


def demo() -> dict[str, Any]:
    """The demo's questions on the model that ships: compressed from scratch, and from documents encoded once."""
    from homer import read_documents
    from homer.demo import DOCUMENTS, load_questions

    model, documents = HomerModel.from_pretrained("mini"), read_documents([DOCUMENTS])
    config = dataclasses.replace(model.config, suffix_budget=64)
    encode_s, encoded = _cpu_timed(lambda: model.encode(documents))
    report: dict[str, Any] = {"encode_s": encode_s, "tokens": len(encoded), "kept_mb": encoded.nbytes / 1e6, "rows": []}
    for question in load_questions()[:3]:
        row: dict[str, Any] = {"question": question.question}
        for name, given in (("scratch", documents), ("encoded", encoded)):
            prompt = model.build_prompt(question.question, given)
            row[f"{name}_s"], cache = _cpu_timed(lambda prompt=prompt: model.compress_prompt(prompt, config=config))
            row[name] = (model.generate(cache, 24).text or "").strip()
        report["rows"].append(row)
        print(json.dumps(row), flush=True)
    sums = {name: statistics.median(row[name] for row in report["rows"]) for name in ("scratch_s", "encoded_s")}
    report |= sums | {"ratio": sums["encoded_s"] / (encode_s + sums["encoded_s"])}
    print(json.dumps({name: value for name, value in report.items() if name != "rows"}))
    return report


def _cpu_timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of this process's own work, which other work on the machine does not lengthen."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with what --tiny stands for filled in."""
    parser = argparse.ArgumentParser(description="What a second question costs, where states are kept.")
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=["llama-3.1-8b", "llama-2-7b"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[2**16, 2**17])
    parser.add_argument("--max-chunk-len", type=int, default=2048)
    parser.add_argument("--layers-warmup", type=int, default=12)
    parser.add_argument("--affix-len", type=int, default=32, help="tokens of the prefix")
    parser.add_argument("--budget", type=int, default=64, help="tokens of the suffix, and of its budget")
    parser.add_argument(
        "--as-given", action="store_true", help="do not shorten the context to what fills all leaves of a tree"
    )
    parser.add_argument("--config", nargs="+", type=pair, default=[], metavar="NAME=VALUE", help="of HomerConfig")
    parser.add_argument("--model-option", nargs="+", type=pair, default=[], metavar="NAME=VALUE", help="of HomerModel")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--folder", help="where the store on disk is made; default: the folder for temporary files")
    parser.add_argument("--disk-gb", type=float, default=8, help="no larger store is written")
    parser.add_argument("--pinned-gb", type=float, default=24, help="no more is pinned")
    parser.add_argument("--limit-s", type=float, default=140, help="begin nothing after so many seconds")
    parser.add_argument("--out", type=Path, help="JSON file, written anew after every row")
    parser.add_argument("--tiny", action="store_true", help="a toy on the CPU, in seconds")
    parser.add_argument("--demo", action="store_true", help="the demo's documents and the model that ships")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.shapes, options.lengths, options.device, options.dtype = ["tiny"], [300, 900], "cpu", "float32"
        options.affix_len = options.budget = 8
    return options


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure every shape and length; print rows as they come, and give the report."""
    options = parse(arguments)
    options.start = time.perf_counter()
    report = new_report(options)
    if options.demo:
        report["demo"] = demo()
    for name in () if options.demo else options.shapes:
        bench = Bench(options, name)
        for length in options.lengths:
            row = bench.run(length)
            report["rows"].append(row)
            cells = [f"{column}={row[column]:.4g}" for column in COLUMNS if column in row]
            print(name, length, *cells, *row["notes"], f"{bench.left():.0f} s left", flush=True)
            write_json(options.out, report)
        del bench
        free_memory()
    report["total_s"] = time.perf_counter() - options.start
    write_json(options.out, report)
    print(f"{report['total_s']:.0f} s in all")
    return report


if __name__ == "__main__":
    main()
