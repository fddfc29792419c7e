"""A server under load: throughput, seconds to the first text, and time of a token, for 1 to 64 clients; in one run.

    python benchmarks/serving.py --out serving/                 # the shipped model on a CPU, within three minutes
    python benchmarks/serving.py --shape llama-2-7b --out serving/   # on a GPU, random weights, within four minutes

The server answers over HTTP as `homer serve` does; clients are a process of their own (`benchmarks/load.py`), and what
they send is the same for every service:

    together   the server as it is: streams take their steps together
    alone      the same without that: every stream takes its step by itself
    plain      the same model by transformers' own code behind the same server: all tokens are read, none is dropped,
               and every request is a loop of its own; the window is stretched by YaRN where it is too short

What the plain model cannot hold or read in time is measured for `--plain-lengths` only, beside "together" at the same
lengths. Every row, and what every client saw, is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load as loads
import shared
import speed
import torch
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache

from homer import CompactCache, HomerConfig, HomerModel, Prompt
from homer.backends.base import Decoder, Steps
from homer.backends.entries import Entries
from homer.backends.loading import MINI
from homer.backends.slots import Entry, Slots
from homer.generation.stream import Stream
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.server import make_server

LOAD = Path(__file__).parent / "load.py"


@dataclasses.dataclass(frozen=True)
class Running(Entry):
    """A request that rests, with the function by which it goes on."""

    go_on: Steps | None = None


class Alone(Slots):
    """Rows of which every one takes its step by itself, as fast as one stream can: by its own CUDA graph on a GPU."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._rows: list[Running] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def logits(self) -> Tensor:
        """As `Slots.logits`."""
        return torch.cat([row.logits for row in self._rows])

    def join(self, given: Any) -> None:
        """As `Slots.join`."""
        for entry in given:
            go_on = getattr(entry, "go_on", None)
            go_on = go_on or self._decoder.steps(entry.entries, entry.position, entry.room)
            self._rows.append(Running(entry.entries, entry.logits, entry.position, entry.room, go_on))

    def leave(self, row: int) -> None:
        """As `Slots.leave`."""
        self._rows[row] = self._rows[-1]
        self._rows.pop()

    def take(self, row: int) -> Entry:
        """As `Slots.take`."""
        return self._rows[row]

    def step(self, tokens: Tensor) -> None:
        """As `Slots.step`."""
        for number, (row, token) in enumerate(zip(self._rows, tokens, strict=True)):
            assert row.go_on is not None
            logits = row.go_on(token).clone()
            self._rows[number] = dataclasses.replace(row, logits=logits, position=row.position + 1, room=row.room - 1)


class Plain(HomerModel):
    """The model by transformers' own code: a full prefill, and a loop of its own for every request."""

    def check_prompt(self, prompt: Prompt, **options: Any) -> None:
        """Nothing: the window was stretched."""

    def compress_prompt(self, prompt: Prompt, **options: Any) -> CompactCache:
        """Keys and values of everything."""
        ids = torch.cat(prompt.parts)
        forward: Any = self.model
        with torch.no_grad(), options.get("turn") or contextlib.nullcontext():
            output = forward(ids[None].to(self.model.device), past_key_values=DynamicCache(), logits_to_keep=1)
        tokens = torch.arange(len(ids))
        return CompactCache(
            Entries.of_cache(output.past_key_values),
            *(tokens[None], tokens, ids[None], torch.zeros(len(ids)), output.logits[:, -1].float(), len(ids)),
            *(len(prompt.prefix_ids), len(prompt.suffix_ids), self.name, "", self.config),
        )

    def stream(self, cache: CompactCache, max_new_tokens: int | None = None, **options: Any) -> Stream:
        """Greedy tokens, one by one."""
        return Stream(self._tokens(cache, max_new_tokens or 64), frozenset(), self.tokenizer, ())

    def _tokens(self, cache: CompactCache, count: int) -> Iterator[int]:
        states, logits, forward = cache.to_dynamic_cache(), cache.logits, self._forward
        for last in range(len(cache), len(cache) + count):
            token = logits.argmax(-1, keepdim=True)
            yield int(token)
            logits = forward(token, states, last)

    def _forward(self, token: Tensor, states: DynamicCache, last: int) -> Tensor:
        forward: Any = self.model
        position = torch.tensor([[last]], device=token.device)
        with torch.no_grad():
            logits: Tensor = forward(token, past_key_values=states, position_ids=position).logits[:, -1]
        return logits


class Bench:
    """One model behind one server after the other."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.start = options, time.perf_counter()
        self.model = big(options) if options.shape else small(options)
        tokenizer = self.model.tokenizer
        sample = " ".join(itertools.islice(loads.told(99), 50))
        self.characters = len(sample) / len(tokenizer(sample)["input_ids"])
        self.slots = self.model.decoder.slots

    def run(self) -> None:
        """All cells, until the time is over."""
        o = self.options
        pair = ("plain", "together") if "plain" in o.services else ()
        cells = [("short", name, clients) for clients in o.plain_clients for name in pair]
        cells += [("all", name, clients) for clients in o.clients for name in o.services if name != "plain"]
        for mix, service, clients in cells:
            row: dict[str, Any] = {"mix": mix, "service": service, "clients": clients}
            if time.perf_counter() - self.start > o.limit - o.seconds - o.drain:
                self.write(row | {"note": "left out: out of time"}, [])
                continue
            try:
                self.cell(row, o.plain_lengths if mix == "short" else o.lengths)
            except Exception as error:  # the next cell may do
                self.write(row | {"note": f"failed: {type(error).__name__}: {error}"[:300]}, [])
            shared.free_memory()

    def cell(self, row: dict[str, Any], lengths: list[int]) -> None:
        """One service under one load."""
        load = loads.load_of(self.options, row["clients"], lengths, self.characters)
        with self.service(row["service"], max(lengths)) as model, self.served(model, row["service"]) as url:
            warm = dataclasses.replace(
                load, rate=2.0, seconds=1.0, drain=90.0, lengths=(min(lengths),), chats=0, seed=99
            )
            self.drive(url, warm)
            busy = time.process_time()
            records, seconds = self.drive(url, load)
        row |= {"rate": load.rate, "lengths": lengths, **loads.figures(records, seconds)}
        self.write(row | {"server_cpu_s": time.process_time() - busy}, [dataclasses.asdict(r) for r in records])

    @contextlib.contextmanager
    def service(self, name: str, longest: int) -> Iterator[HomerModel]:
        """The model of a service."""
        decoder: Any = self.model.decoder
        if name == "plain":
            stretch = max(1.0, (longest + 1024) / self.model.window)
            stretched = speed.with_yarn(self.model.model, stretch)
            with shared.unplanned():
                yield Plain(stretched, self.model.tokenizer, calibration=False, fast=False)
        elif name == "alone":
            decoder.slots = lambda: Alone(decoder)
            try:
                yield self.model
            finally:
                decoder.slots = self.slots
        else:
            yield self.model

    @contextlib.contextmanager
    def served(self, model: HomerModel, service: str) -> Iterator[str]:
        """A server in a thread."""
        running = self.options.plain_running if service == "plain" else self.options.max_running
        states = 0 if service == "plain" else self.options.states_bytes
        settings = ServeSettings(
            model=model, served_name="served", max_running=running, max_queue=1000, store_bytes=0, states_bytes=states
        )
        server = make_server(settings, port=0)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield server.url
        finally:
            server.should_exit = True
            thread.join()
            model.share_steps(contextlib.nullcontext())

    def drive(self, url: str, load: loads.Load) -> tuple[list[loads.Record], float]:
        """What the clients saw, and how long it took."""
        told = json.dumps({"url": url, "load": dataclasses.asdict(load)})
        code = "import sys, json, load; load.drive(json.loads(sys.stdin.read()))"
        ran = subprocess.run(
            [sys.executable, "-c", code], input=told, capture_output=True, text=True, cwd=LOAD.parent, check=True
        )
        answer = json.loads(ran.stdout)
        return [loads.Record(**record) for record in answer["records"]], answer["seconds"]

    def write(self, row: dict[str, Any], records: list[dict[str, Any]]) -> None:
        """Print a row; keep it, and what the clients saw."""
        head = f"{row['mix']:5} {row['service']:8} {row['clients']:3d}"
        print(f"{head} | {row['note'] if 'note' in row else loads.line(row)}", flush=True)
        if self.options.out is None:
            return
        shared.append_line(self.options.out / "serving.jsonl", rounded(row))
        if records and self.options.records:
            loads.write(self.options.out / f"{head.replace(' ', '-')}.jsonl", map(rounded, records))


def rounded(row: Any) -> Any:
    """The same with numbers of four digits behind the point."""
    if isinstance(row, dict):
        return {name: rounded(value) for name, value in row.items()}
    if isinstance(row, list):
        return [rounded(value) for value in row]
    return round(row, 4) if isinstance(row, float) else row


def small(options: argparse.Namespace) -> HomerModel:
    """The shipped model, or another that can be loaded; its answers go on until they are as long as asked for."""
    return endless(HomerModel.from_pretrained(options.model, device=options.device))


def big(options: argparse.Namespace) -> HomerModel:
    """A shape with random weights, which says nothing but words of the shipped model's tokenizer."""
    shape, device = speed.SHAPES[options.shape], torch.device(options.device)
    model = speed.build(shape, device, getattr(torch, options.dtype), "sdpa")
    tokenizer: Any = AutoTokenizer.from_pretrained(MINI)
    with torch.no_grad():
        model.lm_head.weight[silent(tokenizer, shape.vocabulary).to(device)] = 0
    config = HomerConfig(significance="question")
    return endless(HomerModel(model, tokenizer, config, calibration=speed.random_calibration(shape)))


def silent(tokenizer: Any, vocabulary: int) -> Tensor:
    """Ids that are no text by themselves: they would never be the first text of an answer."""
    known = [tokenizer.decode([number]) for number in range(len(tokenizer))]
    special = set(tokenizer.all_special_ids)
    good = {n for n, text in enumerate(known) if text.strip() and "\ufffd" not in text and n not in special}
    return torch.tensor([number for number in range(vocabulary) if number not in good])


def endless(model: HomerModel) -> HomerModel:
    """The same model, no token of which ends an answer, so that all are of equal length."""
    model._streams._end_ids = frozenset()
    return model


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--shape", choices=sorted(speed.SHAPES), help="random weights in place of a model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", help="of a shape")
    parser.add_argument("--services", nargs="+", choices=["together", "alone", "plain"])
    parser.add_argument("--clients", type=int, nargs="+")
    parser.add_argument(
        "--lengths", type=int, nargs="+", help="tokens of documents; one named twice comes twice as often"
    )
    parser.add_argument("--plain-lengths", type=int, nargs="+", help="those of the plain model")
    parser.add_argument("--plain-clients", type=int, nargs="+", default=[8])
    parser.add_argument("--plain-running", type=int, default=4, help="requests that it holds in memory")
    parser.add_argument("--max-running", type=int, default=16, help="requests that others hold")
    parser.add_argument("--states-bytes", type=int, default=0, help="as of `homer serve`")
    parser.add_argument("--limit", type=float, help="seconds; begin no cell that would end later")
    parser.add_argument("--records", action="store_true", help="write what every client saw as well")
    parser.add_argument("--out", type=Path, help="a folder; serving.jsonl there grows by a line a row")
    loads.add_options(parser)
    gpu = parser.parse_known_args(arguments)[0].device != "cpu"
    parser.set_defaults(seconds=10.0, drain=10.0, pause=30.0 if gpu else 60.0, max_tokens=128 if gpu else 32)
    parser.set_defaults(clients=[1, 16, 64] if gpu else [1, 32, 64], limit=230.0 if gpu else 185.0)
    options = parser.parse_args(arguments)
    options.services = options.services or ["together", "alone", "plain"]
    options.lengths = options.lengths or (
        [4096, 4096, 4096, 16384, 16384, 65536, 131072] if gpu else [1024, 1024, 1024, 4096, 4096, 16384]
    )
    options.plain_lengths = options.plain_lengths or ([4096, 4096, 8192] if gpu else [1024, 1024, 2048])
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a row for every cell."""
    options = parse(arguments)
    header = shared.facts() | {"settings": {name: value for name, value in vars(options).items() if name != "out"}}
    print(json.dumps(header), flush=True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "serving.jsonl").write_text(json.dumps(header) + "\n", encoding="utf-8")
    bench = Bench(options)
    bench.run()
    print(f"{time.perf_counter() - bench.start:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
