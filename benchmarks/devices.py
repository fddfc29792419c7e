"""One long context on several GPUs beside the same on one: seconds of `compress`, and whether all bits are the same.

    python benchmarks/devices.py --out devices.jsonl       # all GPUs of the host, Llama-2-7B's shape, three minutes
    python benchmarks/devices.py --tiny                    # a toy on two CPU "devices", in seconds

Weights are random, since time does not depend on them. Each cell is measured on the first GPU alone and on all of them
in the same run: with a thread for each GPU, as `HomerModel(devices=...)` has it, and with one thread that launches for
all. `host s` is how long Python takes to launch what one GPU runs: what it leaves of `one s` is room for another GPU.
Every cell is a line of JSON, written when it is there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import shared
import speed
import torch
from torch import Tensor

from homer import CompactCache, HomerConfig, HomerModel
from homer.backends.devices import Replicas
from homer.merging.leaves import WholeLeaves
from homer.merging.merge import compress


class Cell(NamedTuple):
    """A length in tokens, and how it is compressed."""

    length: int
    note: str
    settings: dict[str, Any]


LENGTHS = {"max_chunk_len": 2048, "target_len": 2048, "layers_warmup": 12}
CHUNKS = LENGTHS | {"significance": "paper", "chunk_batch_size": 1}
FULL = CHUNKS | {"max_initial_chunk_len": 2112}  # so that 65,536 tokens fill 32 leaves
CELLS = (
    Cell(65536, "full leaves", FULL),
    Cell(131072, "full leaves", FULL),
    Cell(65536, "half leaves", CHUNKS),
    Cell(65536, "half leaves, two at a time", CHUNKS | {"chunk_batch_size": 2}),
    Cell(65536, "question", FULL | {"target_len": None, "significance": "question"}),
    Cell(131072, "half leaves", CHUNKS),
    Cell(16384, "full leaves", FULL),
)
TOY = {"max_chunk_len": 64, "target_len": 64, "layers_warmup": 3, "chunk_batch_size": 1}
TINY = tuple(
    Cell(n, name, TOY | {"significance": name}) for n, name in ((300, "paper"), (400, "question"))
)  # fmt: skip
COLUMNS = (
    ("one_s", "one s", ".3f"), ("host_s", "host s", ".3f"), ("all_s", "all s", ".3f"), ("times", "times", ".2f"),
    ("one_thread_s", "1 thread", ".3f"),
)  # fmt: skip
HEADER = f"{'tokens':>8} {'cell':28} {'leaves':>6} {' '.join(f'{title:>8}' for _, title, _ in COLUMNS)}  same bits"


class Bench:
    """The model alone, and with its copies."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.shape = speed.SHAPES[options.shape]
        devices = [torch.device(one) for one in options.devices]
        self.device = devices[0]
        model = speed.build(self.shape, self.device, getattr(torch, options.dtype), "sdpa")
        calibration = speed.random_calibration(self.shape)
        self.one = HomerModel(model, calibration=calibration)
        self.all = HomerModel(model, calibration=calibration, devices=devices)
        self.alone = HomerModel(model, calibration=calibration)  # launched by one thread for all devices
        assert self.all._replicas is not None
        self.alone._replicas = Replicas(self.all._replicas.decoders, threads=False)
        self.devices = devices

    def measure(self, cell: Cell) -> dict[str, Any]:
        """One cell; whatever happens, there is a row."""
        row: dict[str, Any] = {"length": cell.length, "cell": cell.note, "settings": cell.settings}
        try:
            self._measure(cell, row)
        except Exception as error:  # one cell must not end the run
            row["note"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return row

    def _measure(self, cell: Cell, row: dict[str, Any]) -> None:
        config = HomerConfig(**cell.settings)
        ids = torch.randint(0, self.shape.vocabulary, (cell.length,), generator=torch.Generator().manual_seed(1))
        affix = self.options.affix_len
        parts = ids[:affix], ids[affix:-affix], ids[-affix:]
        plan = self.one.plan(*map(len, parts), config=config)
        row |= {"leaves": len(plan.spans), "leaf_len": plan.lengths[0][0], "kept": plan.final_len}
        alone, again, ours = (self._seconds(m, parts, config, row, name) for m, name in self._models())
        row["host_s"] = self._host(ids, parts, config)
        row["times"] = row["one_s"] / row["all_s"]
        row["same"] = same(alone[-1], ours[-1]) and same(alone[-1], again[-1])
        row["one_is_itself"] = same(alone[0], alone[-1])
        row["peak_gb"] = [self._peak(device) for device in self.devices]

    def _models(self) -> Iterator[tuple[HomerModel, str]]:
        yield from ((self.one, "one_s"), (self.alone, "one_thread_s"), (self.all, "all_s"))

    def _seconds(
        self, model: HomerModel, parts: tuple[Tensor, ...], config: HomerConfig, row: dict[str, Any], name: str
    ) -> list[CompactCache]:
        """The first and the last result; the median of the runs after the first is noted."""
        times: list[float] = []
        found: list[CompactCache] = []
        for run in range(self.options.repeats + 1):
            seconds, cache = shared.timed(lambda: model.compress(*parts, config=config), *self.devices)
            found = [*found[:1], cache]
            if run:
                times.append(seconds)
        row[name], row[f"{name}_each"] = statistics.median(times), times
        return found

    def _host(self, ids: Tensor, parts: tuple[Tensor, ...], config: HomerConfig) -> float:
        """Seconds until everything is launched on one device."""
        resolved, plan = self.one._settings.plan(config, [len(part) for part in parts], None)
        scoring = self.one._scoring(ids, plan, resolved, None)
        shared.synchronize(*self.devices)
        start = time.perf_counter()
        compress(self.one.decoder, plan, ids, scoring, WholeLeaves(resolved.chunk_batch_size), refresh_suffix=False)
        seconds = time.perf_counter() - start
        shared.synchronize(*self.devices)
        return seconds

    def _peak(self, device: torch.device) -> float | None:
        return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def same(one: CompactCache, other: CompactCache) -> bool:
    """Whether two compact caches are the same to the last bit."""
    pairs = zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True)
    kept = one.kept_tokens.tolist() == other.kept_tokens.tolist()
    return kept and torch.equal(one.logits, other.logits) and all(torch.equal(a, b) for a, b in pairs)


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    shown = " ".join(f"{format(row[name], form) if name in row else '-':>8}" for name, _, form in COLUMNS)
    bits = {True: "yes", False: "no" if row.get("one_is_itself") else "no; nor does one GPU repeat itself"}
    last = row.get("note") or bits[row["same"]]
    return f"{row['length']:8,} {row['cell']:28} {row.get('leaves', '-'):>6} {shown}  {last}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with what --tiny stands for filled in."""
    parser = argparse.ArgumentParser(description="One long context on several GPUs beside the same on one.")
    parser.add_argument("--devices", nargs="+", help="default: all GPUs")
    parser.add_argument("--shape", choices=sorted(speed.SHAPES), default="llama-2-7b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--affix-len", type=int, default=32, help="tokens of the prefix, and of the suffix")
    parser.add_argument("--repeats", type=int, default=3, help="runs after the first, of which the median counts")
    parser.add_argument("--cells", type=int, help="only so many of the cells")
    parser.add_argument("--limit-s", type=float, default=170.0, help="begin no cell later")
    parser.add_argument("--out", type=Path, help="a file that gets a line of JSON a cell")
    parser.add_argument("--tiny", action="store_true", help='a toy on two CPU "devices", in seconds')
    options = parser.parse_args(arguments)
    if options.tiny:
        options.shape, options.dtype, options.devices = "tiny", "float32", ["cpu", "cpu"]
        options.repeats, options.affix_len = 1, 8
    options.devices = options.devices or [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return options


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """The facts of the run, and whether its GPUs reach one another's memory."""
    numbers = [torch.device(device).index for device in options.devices if "cuda" in device]
    peers = [torch.cuda.can_device_access_peer(numbers[0], other) for other in numbers[1:]]
    return shared.facts() | {"peers": peers} | shared.chosen(options, "shape", "dtype", "devices")


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure cell after cell, print rows as they come, and give them."""
    options, start = parse(arguments), time.perf_counter()
    told = facts(options)
    shared.append_line(options.out, told)
    print(told, flush=True)
    bench = Bench(options)
    print(f"loaded and copied after {time.perf_counter() - start:.0f} s\n{HEADER}", flush=True)
    rows: list[dict[str, Any]] = []
    for cell in (TINY if options.tiny else CELLS)[: options.cells]:
        if time.perf_counter() - start < options.limit_s:
            rows.append(bench.measure(cell))
            shared.append_line(options.out, rows[-1])
            print(line(rows[-1]), flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all")
    return rows


if __name__ == "__main__":
    main()
