"""Decoding in batches: tokens a second of 1 to 32 streams together, beside the same streams each for itself; one run.

    python benchmarks/decoding.py --out decoding.json                 # on a GPU: the shape of Llama-2-7B, and mini
    python benchmarks/decoding.py --device cpu --out decoding.json    # mini, the model that ships
    python benchmarks/decoding.py --tiny                              # seconds

Every stream is a thread that iterates, as the wrappers' threads do. Then: whether batches say what single streams
say, in float32, for every architecture of the tests; how long streams wait while a long prompt is read; and, on a
GPU, what the time of a step goes to. Whatever fails is printed, and does not end the run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import shared
import torch
from torch import Tensor

from homer import CompactCache, HomerConfig, HomerModel
from homer.backends.pausing import pausing
from homer.backends.slots import Entry
from homer.generation.batching import Batch
from homer.generation.loop import generate_tokens
from homer.generation.sampling import Sampling

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tests")]

SIZES = (1, 2, 4, 8, 16, 32)
REQUESTS: list[tuple[int, dict[str, Any]]] = [  # prompt lengths and settings, none like another
    (20, {"max_new_tokens": 24}),
    (150, {"max_new_tokens": 17}),
    (5, {"max_new_tokens": 30}),
    (9, {"max_new_tokens": 24, "temperature": 1.3, "seed": 3}),
    (80, {"max_new_tokens": 20, "repetition_penalty": 1.6}),
    (33, {"max_new_tokens": 1}),
    (60, {"max_new_tokens": 25, "top_p": 0.8, "seed": 4}),
    (12, {"max_new_tokens": 24, "temperature": 0.7, "top_k": 5, "seed": 5}),
]


class Bench:
    """One model; its rows go to the report as they come."""

    def __init__(self, name: str, model: HomerModel, options: argparse.Namespace, report: dict[str, Any]) -> None:
        self.name, self.model, self.options, self.report = name, model, options, report
        self.device = model.decoder.device

    def caches(self, kept: int) -> list[CompactCache]:
        """Two that differ in length and text, whole: nothing is compressed below the window."""
        generator = torch.Generator().manual_seed(kept)
        lengths = kept, kept - kept // 16
        ids = [torch.randint(5, self.model.decoder.vocabulary, (n,), generator=generator) for n in lengths]
        config = HomerConfig(max_chunk_len=self.model.window, target_len=self.model.window)
        return [self.model.compress(x[:16], x[16:-16], x[-16:], config=config) for x in ids]

    def sizes(self, kept: int) -> None:
        """Rows for every number of streams."""
        new, alone = self.options.new, min(self.options.new, 64)
        if kept + new > self.model.window:
            print(f"{self.name} {kept}: left out, beyond the window of {self.model.window}", flush=True)
            return
        caches = self.caches(kept)
        batch = Batch(self.model.decoder)
        open_batched = lambda cache, count: batch.open(cache, Sampling(max_new_tokens=count))  # noqa: E731
        open_alone = lambda cache, count: generate_tokens(  # noqa: E731
            self.model.decoder, cache, Sampling(max_new_tokens=count)
        )
        for size in self.options.sizes:
            row: dict[str, Any] = {"part": "speed", "model": self.name, "kept": kept, "streams": size}
            with self.part(row):
                self.together(open_batched, caches, size, 8)  # compiles what is compiled once
                row["batched"] = self.together(open_batched, caches, size, new)
                row["step_ms"] = self.step_ms(caches, size)
                row["alone"] = self.together(open_alone, caches, size, alone)
                first = next((r for r in self.report["rows"] if r.get("kept") == kept and r["model"] == self.name), row)
                row["times_one"] = row["batched"] / first["batched"]
                row["times_alone"] = row["batched"] / row["alone"]

    def together(
        self, opened: Callable[[CompactCache, int], Iterator[int]], caches: list[CompactCache], size: int, new: int
    ) -> float:
        """Tokens a second of so many threads, from when all are there until the last has its last token."""
        ready = threading.Barrier(size + 1)

        def read(number: int) -> int:
            stream = opened(caches[number % len(caches)], new)
            ready.wait()
            return sum(1 for _ in stream)

        with ThreadPoolExecutor(size) as pool:
            counts = [pool.submit(read, number) for number in range(size)]
            ready.wait()
            start = time.perf_counter()
            total = sum(count.result() for count in counts)
            self.wait()
            seconds = time.perf_counter() - start
        assert total == size * new
        return total / seconds

    def step_ms(self, caches: list[CompactCache], size: int, count: int = 24) -> float:
        """Milliseconds of a step without threads, choices and texts."""
        slots = self.filled(caches, size, count + 8)
        tokens = torch.arange(5, 5 + size, device=self.device)
        for _ in range(3):
            slots.step(tokens)
        return 1000 * self.seconds([lambda: slots.step(tokens)] * count) / count

    def filled(self, caches: list[CompactCache], size: int, room: int) -> Any:
        """Slots with so many rows."""
        slots = self.model.decoder.slots()
        chosen = [caches[number % len(caches)] for number in range(size)]
        slots.join([Entry(c.entries, c.logits.to(self.device), c.next_position, room) for c in chosen])
        return slots

    def profile(self, kept: int, size: int) -> None:
        """What the time of a step goes to, by kernel."""
        row: dict[str, Any] = {"part": "profile", "model": self.name, "kept": kept, "streams": size}
        with self.part(row), torch.no_grad():
            slots = self.filled(self.caches(kept), size, 40)
            tokens = torch.arange(5, 5 + size, device=self.device)
            for _ in range(3):
                slots.step(tokens)
            self.wait()
            activities = [torch.profiler.ProfilerActivity.CUDA]
            with torch.profiler.profile(activities=activities) as profiler:
                for _ in range(5):
                    slots.step(tokens)
                self.wait()
            events = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
            row["kernels"] = {e.key[:90]: [e.self_device_time_total / 5000, e.count // 5] for e in events[:14]}
            for name, (ms, calls) in row["kernels"].items():
                print(f"  {ms:8.3f} ms {calls:5d} calls a step  {name}", flush=True)

    def gaps(self, kept: int, streams: int, prompt: int, readers: int = 1, batch_size: int = 1) -> None:
        """How long streams wait for a token while long prompts are read by turns, as the server does."""
        from homer_integrations.serve.turns import Turns

        row: dict[str, Any] = {"part": "gaps", "model": self.name, "kept": kept, "streams": streams, "prompt": prompt}
        row |= {"readers": readers, "leaves_at_once": batch_size}
        with self.part(row):
            caches, turns, reading = self.caches(kept), Turns(), threading.Event()
            batch, waits = Batch(self.model.decoder), list[float]()
            batch.share = turns.join(urgent=True)
            done = threading.Event()

            def stream() -> None:
                while not done.is_set():
                    last = time.perf_counter()
                    for _ in batch.open(caches[0], Sampling(max_new_tokens=self.model.window - kept)):
                        now = time.perf_counter()
                        if reading.is_set():
                            waits.append(now - last)
                        last = now
                        if done.is_set():
                            break

            with ThreadPoolExecutor(streams + readers) as pool:
                runs = [pool.submit(stream) for _ in range(streams)]
                time.sleep(1.0)
                try:
                    self.read(prompt // 8, turns, batch_size)
                    reading.set()
                    start = time.perf_counter()
                    asked = [pool.submit(self.read, prompt, turns, batch_size) for _ in range(readers)]
                    for one in asked:
                        one.result()
                    row["read_s"] = time.perf_counter() - start
                    reading.clear()
                finally:
                    done.set()
                    for run in runs:
                        run.result(60)
            waits.sort()
            for name, part in (("p50_ms", 0.5), ("p99_ms", 0.99), ("most_ms", 1.0)):
                row[name] = 1000 * waits[min(len(waits) - 1, int(part * len(waits)))]
            row["tokens_while_read"] = len(waits)
            row["read_alone_s"] = readers * self.read(prompt, Turns(), batch_size)

    def read(self, prompt: int, turns: Any, batch_size: int) -> float:
        """Seconds to compress so many tokens, letting others go first between layers."""
        from homer_integrations.serve.turns import Pace

        ids = torch.randint(5, self.model.decoder.vocabulary, (prompt,), generator=torch.Generator().manual_seed(1))
        chunk = self.model.window // 2
        config = HomerConfig(max_chunk_len=chunk, target_len=chunk, significance="paper", chunk_batch_size=batch_size)
        pace = Pace(self.device)
        with turns.join() as turn:
            start = time.perf_counter()

            def step() -> None:
                pace.keep()
                if turn.wanted:
                    self.wait()
                turn.pass_on()

            with pausing(step):
                self.model.compress(ids[:16], ids[16:-16], ids[-16:], config=config)
            self.wait()
            return time.perf_counter() - start

    def joint(self, length: int, requests: int = 8) -> None:
        """Short prompts of as many threads at once, up to an eighth longer or shorter: read together, and not.

        Beside them, what one batch of equally long prompts gains over one after the other: more there is not.
        """
        row: dict[str, Any] = {"part": "joint", "model": self.name, "prompt": length, "streams": requests}
        with self.part(row):
            lengths = [min(self.model.window, length + length * (n - requests // 2) // 32) for n in range(requests)]
            prompts = [torch.randint(5, self.model.decoder.vocabulary, (n,)) for n in lengths]
            config = HomerConfig(max_chunk_len=self.model.window, target_len=self.model.window, significance="paper")
            ways = {"one_by_one_s": (1, 0), "threads_s": (requests, 0), "together_s": (requests, 2**16)}
            seconds: dict[str, list[float]] = {name: [] for name in (*ways, "equal_alone_s", "equal_batch_s")}
            for _ in range(4):  # the first compiles; the ways take turns, so that other work falls on all
                for name, (threads, rows) in ways.items():
                    seconds[name].append(self.read_all(prompts, config, threads, rows))
                for name, calls in self.equally_long(length, requests).items():
                    seconds[name].append(self.seconds(calls))
            row |= {name: min(some[1:]) for name, some in seconds.items()}
            row["gain"] = row["one_by_one_s"] / row["together_s"]
            row["gain_at_most"] = row["equal_alone_s"] / row["equal_batch_s"]

    def read_all(self, prompts: list[Tensor], config: HomerConfig, threads: int, rows: int) -> float:
        """Seconds until prompts are read by so many threads, in batches of so many tokens at most; 0: in none.

        On a GPU that is as many as the library lets in.
        """
        joint, ready = self.model._joint, threading.Barrier(threads + 1)
        usual, joint.rows = joint.rows, min(rows, joint.rows or rows)

        def read(number: int) -> None:
            ready.wait()
            for ids in prompts[number::threads]:
                self.model.compress(ids[:4], ids[4:-4], ids[-4:], config=config)

        try:
            with ThreadPoolExecutor(threads) as pool:
                runs = [pool.submit(read, number) for number in range(threads)]
                ready.wait()
                start = time.perf_counter()
                for run in runs:
                    run.result()
                self.wait()
                return time.perf_counter() - start
        finally:
            joint.rows = usual

    def equally_long(self, length: int, requests: int) -> dict[str, list[Callable[[], Any]]]:
        """What runs prompts of one length one after the other, and in one batch."""
        decoder = self.model.decoder
        ids = torch.randint(5, decoder.vocabulary, (requests, length)).to(self.device)
        positions = torch.arange(length, device=self.device)[None]
        alone = [lambda one=one: decoder.run(0, decoder.layers, one[None], positions) for one in ids]
        batch = lambda: decoder.run(0, decoder.layers, ids, positions.expand(requests, -1))  # noqa: E731
        return {"equal_alone_s": alone, "equal_batch_s": [batch]}

    def seconds(self, calls: list[Callable[[], Any]]) -> float:
        """Of all calls, until the device is done."""
        return shared.timed(lambda: [call() for call in calls], self.device)[0]

    def part(self, row: dict[str, Any]) -> Part:
        """A row that is written whatever becomes of it."""
        return Part(row, self.options, self.report)

    def wait(self) -> None:
        """Wait for the device."""
        shared.synchronize(self.device)


class Part:
    """A part of the run: what fails in it is printed and noted, and the report is written after it."""

    def __init__(self, row: dict[str, Any], options: argparse.Namespace, report: dict[str, Any]) -> None:
        self.row, self.options, self.report = row, options, report

    def __enter__(self) -> None:
        """Begin."""
        self.start = time.perf_counter()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        """Note, print, write."""
        if error is not None:
            traceback.print_exception(error)
            self.row["note"] = f"failed: {type(error).__name__}: {str(error)[:300]}"
        self.row["seconds"] = round(time.perf_counter() - self.start, 2)
        self.report["rows"].append(self.row)
        print(shared.line_of(self.row, "kernels"), flush=True)
        shared.write_json(self.options.out, self.report)
        shared.free_memory()
        return isinstance(error, Exception)


def exactness(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """For every architecture of the tests, in float32: eight requests at once, and each alone."""
    from architectures import SUPPORTED, build

    config = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2)
    for name in list(SUPPORTED)[: options.architectures]:
        row: dict[str, Any] = {"part": "exact", "model": name, "streams": len(REQUESTS)}
        with Part(row, options, report):
            model = HomerModel(build(*SUPPORTED[name]).to(options.device), config=config, calibration=False)
            row["backend"] = f"{type(model.decoder).__name__}, {type(model.decoder.slots()).__name__}"
            row["equal"] = equal(model)


def equal(model: HomerModel) -> int:
    """How many of the requests say at once what they say alone."""
    pairs = [(model.compress(*ids_of(length)), Sampling(**chosen)) for length, chosen in REQUESTS]
    alone = [list(generate_tokens(model.decoder, *pair)) for pair in pairs]
    batch = Batch(model.decoder)
    with ThreadPoolExecutor(len(pairs)) as pool:
        together = list(pool.map(lambda pair: list(batch.open(*pair)), pairs))
    return sum(a == b for a, b in zip(alone, together, strict=True))


def ids_of(length: int) -> list[Tensor]:
    """Prefix, context and suffix of random ids."""
    generator = torch.Generator().manual_seed(length)
    return [torch.randint(0, 199, (n,), generator=generator) for n in (4, length, 6)]


def pair(text: str) -> tuple[int, int]:
    """Two numbers with a comma between."""
    first, second = text.split(",")
    return int(first), int(second)


def big(options: argparse.Namespace) -> HomerModel:
    """Llama-2-7B's shape with random weights."""
    import speed

    dtype = getattr(torch, options.dtype)
    plain = speed.build(speed.SHAPES[options.shape], torch.device(options.device), dtype, "sdpa")
    return HomerModel(plain, config=HomerConfig(significance="paper"), calibration=False)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Decoding in batches.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", help="of the large shape")
    parser.add_argument("--shape", default="llama-2-7b")
    parser.add_argument("--models", nargs="+", choices=["big", "mini"])
    parser.add_argument("--parts", nargs="+", choices=["exact", "speed", "profile", "gaps", "joint"])
    parser.add_argument("--kept", nargs="+", type=int, default=[512, 2048])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--new", type=int, default=128, help="tokens a stream")
    parser.add_argument("--prompt", type=int, default=131_072, help="tokens of the prompt that is read meanwhile")
    parser.add_argument(
        "--gaps", nargs="+", type=pair, default=[(1, 1), (4, 1), (1, 8)], metavar="N,M",
        help="prompts that are read at once, and leaves of each at once",
    )  # fmt: skip
    parser.add_argument("--joint", nargs="+", type=int, default=[128, 400, 1000], help="tokens of prompts read at once")
    parser.add_argument("--architectures", type=int, default=99, help="how many are checked")
    parser.add_argument("--out", type=Path, help="JSON file, written anew after every row")
    parser.add_argument("--tiny", action="store_true", help="a toy on the CPU, in seconds")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.device, options.shape, options.dtype, options.kept = "cpu", "tiny", "float32", [64]
        options.sizes, options.new, options.prompt, options.architectures = [1, 4], 12, 700, 2
        options.models = options.models or ["big"]
    gpu = options.device != "cpu"
    options.models = options.models or (["big", "mini"] if gpu else ["mini"])
    options.parts = options.parts or ["exact", "speed", *(["profile"] if gpu else []), "gaps", "joint"]
    return options


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run all parts; print rows as they come, and give the report."""
    options, start = parse(arguments), time.perf_counter()
    report: dict[str, Any] = shared.facts() | {"rows": []}
    print(report["machine"], report["versions"], flush=True)
    if "exact" in options.parts:
        exactness(options, report)
    for name in options.models:
        try:
            model = big(options) if name == "big" else HomerModel.from_pretrained("mini", device=options.device)
            bench = Bench(options.shape if name == "big" else name, model, options, report)
            kept = [count for count in options.kept if count + options.new <= model.window] or [model.window // 2]
            for count in kept if "speed" in options.parts else ():
                bench.sizes(count)
            if "profile" in options.parts and name == "big":
                bench.profile(kept[0], 16)
            for length in options.joint if "joint" in options.parts else ():
                bench.joint(min(length, model.window))
            if "gaps" in options.parts:
                prompt = options.prompt if name == "big" else 16_384
                for readers, batch_size in options.gaps:
                    bench.gaps(kept[0], min(8, max(options.sizes)), prompt, readers, batch_size)
            del model, bench
        except Exception:  # the next model may do
            traceback.print_exc()
        shared.free_memory()
    exact = [row for row in report["rows"] if row["part"] == "exact"]
    wrong = [row["model"] for row in exact if row.get("equal") != row["streams"]]
    print(f"exact: {len(exact) - len(wrong)} of {len(exact)} architectures; not: {', '.join(wrong) or 'none'}")
    speeds = [row["batched"] / row["streams"] for row in report["rows"] if "batched" in row]
    if speeds:
        print(f"tokens/s a stream: {statistics.median(speeds):.1f} in the middle of all cells")
    print(f"{time.perf_counter() - start:.0f} s in all", flush=True)
    return report


if __name__ == "__main__":
    main()
