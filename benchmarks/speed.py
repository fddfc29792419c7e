"""Speed and memory of HOMER beside the plain model's full prefill, with YaRN and without, and beside the floor.

    python benchmarks/speed.py --out speed.json            # Llama-2-7B's shape, 8k to 1M tokens, about ten minutes
    python benchmarks/speed.py --fast                      # 16k and 64k tokens, within three minutes
    python benchmarks/speed.py --tiny                      # a toy on the CPU, in seconds

Weights are random, since neither time nor memory depends on them, and are made on the device. The floor is the least
time that the machine needs for the arithmetic or for the bytes, whichever takes longer, at the rates that this same
run measures with a matrix product and a copy. All ratios are of one run.

Rows of `ask` are what a user waits for: from the question and texts of documents that nobody read before to the first
token, with its sources. The others begin with token ids.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import overhead
import torch
from shared import facts, free_memory, timed, unplanned, write_json
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaConfig

import homer
from homer import Calibration, HomerConfig, HomerModel
from homer.backends.loading import MINI

METHODS = ("homer", "ask", "full", "yarn")
DOCUMENT = 170  # tokens of a document that `ask` reads
DECODED = (8, 72)  # tokens of two streams; what they differ by is the time of a token without what a stream costs once


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Llama by its numbers, and the operations and bytes that follow from them."""

    layers: int
    hidden: int
    heads: int
    key_heads: int
    feed_forward: int
    vocabulary: int
    window: int
    bytes_each: int = 2

    @property
    def mlp(self) -> int:
        """Weights of a layer's feed-forward part."""
        return 3 * self.hidden * self.feed_forward

    @property
    def layer(self) -> int:
        """Weights of a layer."""
        return self.mlp + 2 * self.hidden * (self.hidden + self.hidden * self.key_heads // self.heads)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values of one token in all layers."""
        return 2 * self.layers * self.hidden * self.key_heads // self.heads * self.bytes_each

    def work(self, tokens: int, layers: int) -> float:
        """Operations of a causal pass of tokens over layers."""
        return layers * (2.0 * self.layer * tokens + 2.0 * tokens * tokens * self.hidden)


SHAPES = {
    "llama-2-7b": Shape(32, 4096, 32, 32, 11008, 32000, 4096),
    "llama-3.1-8b": Shape(32, 4096, 32, 8, 14336, 128256, 131072),
    "tiny": Shape(8, 64, 4, 2, 128, 4096, 256, 4),
}


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Rates of the machine: operations a second of a matrix product, bytes a second of a copy, read plus written."""

    operations: float
    bytes: float

    def floor(self, operations: float, read: float) -> float:
        """Least seconds for so many operations and bytes."""
        return max(operations / self.operations, read / self.bytes)


def full_floor(shape: Shape, ceilings: Ceilings, tokens: int) -> float:
    """Least seconds of a causal prefill of everything."""
    head = shape.hidden * shape.vocabulary
    weights = (shape.layers * shape.layer + head) * shape.bytes_each
    return ceilings.floor(shape.work(tokens, shape.layers) + 2.0 * head, weights + tokens * shape.cache_bytes)


def homer_floor(shape: Shape, ceilings: Ceilings, plan: homer.MergePlan, refresh: bool) -> float:
    """Least seconds of a compression: every node's layers, less the feed-forward part of what its last layer prunes."""
    seconds = 0.0
    for lengths, targets, (first, end) in zip(plan.lengths, plan.targets, plan.layers, strict=True):
        for length, target in zip(lengths, targets, strict=True):
            if end > first:
                saved = 2.0 * shape.mlp * (length - target)
                weights = (end - first) * shape.layer * shape.bytes_each
                seconds += ceilings.floor(shape.work(length, end - first) - saved, weights)
    head = shape.hidden * shape.vocabulary
    weights = (shape.layers * shape.layer + head) * shape.bytes_each
    again = ceilings.floor(2.0 * shape.layers * shape.layer * plan.suffix_len, weights) if refresh else 0.0
    return seconds + again + ceilings.floor(2.0 * head, head * shape.bytes_each)


def decode_floor(shape: Shape, ceilings: Ceilings, cached: int) -> float:
    """Least seconds of one new token after so many cached ones."""
    weights = (shape.layers * shape.layer + shape.hidden * shape.vocabulary) * shape.bytes_each
    return (weights + cached * shape.cache_bytes) / ceilings.bytes


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """The rates of this machine, now."""
    big = device.type == "cuda"
    size, copied = (8192, 2**30) if big else (512, 2**24)
    square = torch.randn(size, size, device=device, dtype=dtype)
    source = torch.zeros(copied, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    product = min(timed(lambda: square @ square, device)[0] for _ in range(10))
    copying = min(timed(lambda: target.copy_(source), device)[0] for _ in range(10))
    return Ceilings(2.0 * size**3 / product, 2.0 * copied / copying)


def build(shape: Shape, device: torch.device, dtype: torch.dtype, attention: str) -> Any:
    """A Llama of a shape with random weights, made on the device; it never says that it has come to an end."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=shape.window,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(device):
        kind: Any = AutoModelForCausalLM
        return kind.from_config(config, dtype=dtype, attn_implementation=attention).eval()


def with_yarn(model: Any, factor: float) -> Any:
    """A second model on the same weights, its window extended by YaRN."""
    twin = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    window = model.config.max_position_embeddings
    twin.config.rope_parameters = dict(model.config.rope_parameters) | {
        "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": window,
    }  # fmt: skip
    twin.config.max_position_embeddings = int(window * factor)
    twin.model.rotary_emb = type(model.model.rotary_emb)(twin.config).to(model.device)
    return twin


def random_calibration(shape: Shape) -> Calibration:
    """A calibration with all that one can hold; an evidence head in every other layer."""
    sizes = shape.layers, shape.heads, shape.window
    heads = torch.zeros(sizes[:2])
    heads[::2, 0] = 1
    bias, means = torch.zeros(shape.layers, shape.window), torch.randn(sizes).half()
    team = [[shape.layers * part // 8, 0] for part in (3, 4, 5, 6)]
    return Calibration(
        bias, {"team": team}, means=means, deviations=torch.ones(sizes).half(), heads=heads, question_heads=heads
    )


class Bench:
    """Measures one shape; rows are kept and written as they come."""

    def __init__(self, options: argparse.Namespace, name: str, shape: Shape, report: dict[str, Any]) -> None:
        self.options, self.name, self.shape, self.report = options, name, shape, report
        self.device, dtype = torch.device(options.device), getattr(torch, options.dtype)
        self.shape = dataclasses.replace(shape, bytes_each=dtype.itemsize)
        self.ceilings = measure_ceilings(self.device, dtype)
        report["ceilings"] = dataclasses.asdict(self.ceilings)
        self.model = build(shape, self.device, dtype, options.attention)
        self.weights = sum(weight.numel() * weight.element_size() for weight in self.model.parameters())
        chunk = min(options.max_chunk_len, shape.window // 2)
        warmup = min(options.layers_warmup, shape.layers * 12 // 32)
        settings = {"max_chunk_len": chunk, "target_len": chunk, "layers_warmup": warmup} | dict(options.config)
        calibration = random_calibration(shape) if options.calibrated else None
        self.homer = HomerModel(
            self.model, config=HomerConfig(**settings), calibration=calibration, **dict(options.model_option)
        )

    def run(self, method: str, length: int) -> None:
        """Measure one cell; whatever happens, there is a row."""
        row: dict[str, Any] = {"shape": self.name, "method": method, "length": length}
        try:
            measure = {"homer": self._homer, "ask": self._ask}.get(method, functools.partial(self._full, method))
            row |= measure(length)
        except torch.OutOfMemoryError:
            row["note"] = "out of memory"
        except Exception as error:  # one cell must not end the run
            row["note"] = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        free_memory()
        self._compare(row)
        self.report["rows"].append(row)
        print(line(row), flush=True)

    def _homer(self, length: int) -> dict[str, Any]:
        affix = self.options.affix_len
        ids = self._ids(length)
        parts = ids[:affix], ids[affix:-affix], ids[-affix:]
        plan = self.homer.plan(*map(len, parts))
        if self.options.full_leaves:
            parts = parts[0], parts[1][: self._filling(plan, len(parts[1]))], parts[2]
            plan = self.homer.plan(*map(len, parts))
        refresh = self.homer.config.refresh_suffix
        floor = homer_floor(self.shape, self.ceilings, plan, refresh)
        times, peak, cache = self._repeat(lambda: self.homer.compress(*parts))
        first, last = (self._stream(cache, n) for n in DECODED)
        row = {"decode_ms": 1000 * (last - first) / (DECODED[1] - DECODED[0]), "stream_s": last}
        row["decode_floor_ms"] = 1000 * decode_floor(self.shape, self.ceilings, len(cache) + DECODED[1] // 2)
        row |= {"tokens": sum(map(len, parts)), "leaves": len(plan.spans), "leaf_len": plan.lengths[0][0]}
        return self._row(times, peak, floor, len(cache)) | row

    def _ask(self, length: int) -> dict[str, Any]:
        """Until the first token, in documents that no run has read before; with settings as they come."""
        tokenizer: Any = AutoTokenizer.from_pretrained(MINI)
        options: Any = dict(self.options.model_option)
        known = self.homer.calibration or False  # heads of random weights are not worth measuring
        config = HomerConfig(significance=self.homer.config.significance)
        asked = HomerModel(self.model, tokenizer, config=config, calibration=known, **options)
        characters, count = overhead.characters_of(tokenizer, length), max(1, length // DOCUMENT)
        told = (" ".join(overhead.told(characters, seed)) for seed in itertools.count(1))
        runs = (overhead.cut(text, count) for text in told)
        prompt = asked.build_prompt("What is remark 7?", next(runs))
        plan = asked.plan(*prompt.lengths)
        floor = homer_floor(self.shape, self.ceilings, plan, asked.config.refresh_suffix)
        batches = [next(runs) for _ in range(self.options.repeats + 1)]
        given = iter(batches)
        times, peak, answer = self._repeat(lambda: asked.ask("What is remark 7?", next(given), max_new_tokens=1))
        row = self._row(times, peak, floor, answer.usage.kept_tokens)
        return row | {"tokens": answer.usage.input_tokens, "documents": count}

    def _filling(self, plan: homer.MergePlan, context: int) -> int:
        """The most context tokens of no more than `context` that fill every leaf of a tree."""
        room = (self.homer.config.max_chunk_len or 0) - plan.prefix_len - plan.suffix_len
        leaves: int = 2 ** max(0, (context // room).bit_length() - 1)
        return min(context, room * leaves)

    def _stream(self, cache: homer.CompactCache, tokens: int) -> float:
        """Seconds of the second of two streams of so many tokens, by the public `stream`."""
        for _ in range(2):
            seconds, result = timed(lambda: self.homer.stream(cache, max_new_tokens=tokens).result(), self.device)
            assert len(result.token_ids) == tokens
        return seconds

    def _full(self, method: str, length: int) -> dict[str, Any]:
        model = self.model if method == "full" else with_yarn(self.model, max(1.0, length / self.shape.window))
        floor = full_floor(self.shape, self.ceilings, length)
        if 2 * floor > self.left():
            return {"prefill_floor_s": floor, "note": f"left out: the floor alone is {floor:.0f} s"}
        ids = self._ids(length)[None].to(self.device)
        times, peak, output = self._repeat(lambda: prefill(model, ids))
        row = self._row(times, peak, floor, length)
        tokens = 16
        with unplanned():
            seconds, _ = timed(lambda: decode(model, output, length, tokens), self.device)
        row["decode_ms"] = 1000 * seconds / tokens
        row["decode_floor_ms"] = 1000 * decode_floor(self.shape, self.ceilings, length + tokens // 2)
        return row

    def _repeat(self, call: Callable[[], Any]) -> tuple[list[float], int | None, Any]:
        """Times of a call, the first apart; fewer where time runs out. Also the peak of memory, and the last result."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        times: list[float] = []
        result = None
        while not times or (len(times) <= self.options.repeats and 2 * times[-1] < self.left() and times[-1] < 30):
            result = None  # or two results would be held at once
            seconds, result = timed(call, self.device)
            times.append(seconds)
        return times, torch.cuda.max_memory_allocated(self.device) if cuda else None, result

    def _row(self, times: list[float], peak: int | None, floor: float, cached: int) -> dict[str, Any]:
        row = {"prefill_s": statistics.median(times[1:] or times), "first_s": times[0], "runs": len(times)}
        row |= {"prefill_floor_s": floor, "cached_tokens": cached, "cache_gb": cached * self.shape.cache_bytes / 1e9}
        if peak is not None:
            row |= {"peak_gb": peak / 1e9, "over_weights_gb": (peak - self.weights) / 1e9}
        return row

    def _compare(self, row: dict[str, Any]) -> None:
        """Ratios to the floor, and to HOMER at the same length of this run."""
        for name, unit in (("prefill", "s"), ("decode", "ms")):
            if f"{name}_{unit}" in row:
                row[f"{name}_vs_floor"] = row[f"{name}_{unit}"] / row[f"{name}_floor_{unit}"]
        same = [r for r in self.report["rows"] if (r["shape"], r["length"]) == (row["shape"], row["length"])]
        ours = next((r for r in same if r["method"] == "homer" and "prefill_s" in r), None)
        if ours is not None and "prefill_s" in row and row["method"] != "homer":
            row["homer_is_faster"] = row["prefill_s"] / ours["prefill_s"]

    def _ids(self, length: int) -> Tensor:
        generator = torch.Generator().manual_seed(length)
        return torch.randint(0, self.shape.vocabulary, (length,), generator=generator)

    def left(self) -> float:
        """Seconds until the limit."""
        return float(self.options.limit_s - (time.perf_counter() - self.options.start))


@torch.no_grad()
def prefill(model: Any, ids: Tensor) -> DynamicCache:
    """The keys and values of everything (ids: (1, length)), the head on the last row only."""
    cache: DynamicCache = model(ids, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1).past_key_values
    return cache


@torch.no_grad()
def decode(model: Any, cache: DynamicCache, length: int, tokens: int) -> None:
    """So many greedy tokens, one by one, after `length` cached ones; the cache grows."""
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    for last in range(length, length + tokens):
        position = torch.tensor([[last]], device=model.device)
        logits = model(token, past_key_values=cache, position_ids=position, use_cache=True).logits
        token = logits[:, -1:].argmax(-1)
        int(token)  # as streaming needs it


COLUMNS = (
    ("prefill_s", "prefill s", ".3f"), ("prefill_vs_floor", "/floor", ".2f"), ("homer_is_faster", "/homer", ".2f"),
    ("decode_ms", "decode ms", ".2f"), ("decode_vs_floor", "/floor", ".2f"), ("peak_gb", "peak GB", ".1f"),
    ("over_weights_gb", "-weights", ".2f"), ("cache_gb", "cache GB", ".2f"),
)  # fmt: skip
HEADER = f"{'shape':13} {'method':6} {'tokens':>9} {' '.join(f'{title:>9}' for _, title, _ in COLUMNS)}"


def line(row: dict[str, Any]) -> str:
    """A row as it is printed; a dash where there is no number."""
    cells = " ".join(f"{format(row[name], form) if name in row else '-':>9}" for name, _, form in COLUMNS)
    return f"{row['shape']:13} {row['method']:6} {row['length']:9,} {cells}  {row.get('note', '')}".rstrip()


def pair(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON where it is JSON."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with what --fast and --tiny stand for filled in."""
    parser = argparse.ArgumentParser(description="Speed and memory of HOMER, of the full prefill, and the floor.")
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES))
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens; default: 8k to 1M")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--max-chunk-len", type=int, default=2048)
    parser.add_argument("--layers-warmup", type=int, default=12)
    parser.add_argument("--affix-len", type=int, default=32, help="tokens of the prefix, and of the suffix")
    parser.add_argument("--config", nargs="+", type=pair, default=[], metavar="NAME=VALUE", help="of HomerConfig")
    parser.add_argument("--model-option", nargs="+", type=pair, default=[], metavar="NAME=VALUE", help="of HomerModel")
    parser.add_argument(
        "--full-leaves", action="store_true", help="cut HOMER's context down to what fills all leaves of a tree"
    )
    parser.add_argument("--calibrated", action="store_true", help="with a calibration, a random one")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, help="runs after the first, of which the median counts (default: 3)")
    parser.add_argument("--limit-s", type=float, help="begin nothing that is likely to end later (default: 540)")
    parser.add_argument("--out", type=Path, help="JSON file, written anew after every row")
    parser.add_argument("--fast", action="store_true", help="16k and 64k tokens, within three minutes")
    parser.add_argument("--tiny", action="store_true", help="a toy on the CPU, in seconds")
    options = parser.parse_args(arguments)
    lengths, limit, repeats, shapes = [2**n for n in range(13, 21)], 540.0, 3, ["llama-2-7b"]
    if options.fast:
        lengths, limit, repeats = [2**14, 2**16], 165.0, 2
    if options.tiny:
        lengths, limit, repeats, shapes = [300, 900], 60.0, 1, ["tiny"]
        options.device, options.dtype, options.affix_len = "cpu", "float32", 8
    defaults = {"lengths": lengths, "limit_s": limit, "repeats": repeats, "shapes": shapes}
    for name, value in defaults.items():
        setattr(options, name, value if getattr(options, name) is None else getattr(options, name))
    return options


def new_report(options: argparse.Namespace) -> dict[str, Any]:
    """A report without rows: the machine, the day, versions and settings."""
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "start")}
    return facts() | {"settings": settings, "rows": []}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure every shape, length and method; print rows as they come, and give the report."""
    options = parse(arguments)
    options.start = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if options.tiny else threads)  # a toy gains nothing by more, and waits where cores are busy
    report = new_report(options)
    print(HEADER, flush=True)
    for name in options.shapes:
        bench = Bench(options, name, SHAPES[name], report)
        for length in options.lengths:
            for method in options.methods:
                if bench.left() > 0:
                    bench.run(method, length)
                else:
                    report["rows"].append({"shape": name, "method": method, "length": length, "note": "no time left"})
                    print(line(report["rows"][-1]), flush=True)
                write_json(options.out, report)
        del bench
        free_memory()
    rates = report["ceilings"]
    print(f"{rates['operations'] / 1e12:.3g} TFLOP/s, {rates['bytes'] / 1e12:.3g} TB/s; ", end="")
    print(f"{time.perf_counter() - options.start:.0f} s in all")
    torch.set_num_threads(threads)
    return report


if __name__ == "__main__":
    main()
