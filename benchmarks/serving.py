"""What a short request waits for while others send long ones: streams that take turns, beside one after the other.

Of every four clients one sends long documents and three short ones, each several requests in a row, all different.
One after the other is the same server with --max-running 1. Run on the machine to be measured:

    python benchmarks/serving.py --clients 1 4 16
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import statistics
import threading
import time

import httpx

from homer import HomerModel, read_documents
from homer.demo import DOCUMENTS
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.server import Server, make_server

QUESTION = "What is the door code for the northern archive?"
FACT = "The door code for the northern archive is 48213."


@dataclasses.dataclass(frozen=True)
class Load:
    """What each client sends."""

    text: str
    rounds: int
    long_characters: int
    max_tokens: int

    def documents(self, client: int, number: int) -> list[str]:
        """Long ones of every fourth client, short ones of the others; never the same twice."""
        length = self.long_characters if client % 4 == 0 else 600
        start = (client * 7919 + number * 997) % max(1, len(self.text) - length)
        return [self.text[start : start + length], FACT]


async def client(url: str, load: Load, name: int) -> list[tuple[bool, float, float]]:
    """(long, seconds to the first text, seconds to the end) of every request."""
    times = []
    async with httpx.AsyncClient(timeout=None) as http:
        for number in range(load.rounds):
            body = {
                "model": "served", "stream": True, "messages": [{"role": "user", "content": QUESTION}],
                "documents": load.documents(name, number), "max_tokens": load.max_tokens,
            }  # fmt: skip
            start, first = time.perf_counter(), 0.0
            async with http.stream("POST", f"{url}/chat/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    first = first or (time.perf_counter() - start if _has_text(line) else 0.0)
            times.append((name % 4 == 0, first, time.perf_counter() - start))
    return times


def _has_text(line: str) -> bool:
    if not line.startswith("data: {"):
        return False
    choices = json.loads(line[6:]).get("choices") or [{}]
    return bool(choices[0].get("delta", {}).get("content"))


def measure(model: HomerModel, running: int, clients: int, load: Load) -> dict[str, float | int | str]:
    """One run of all clients against a fresh server."""
    settings = ServeSettings(model=model, served_name="served", max_running=running, max_queue=1000, store_bytes=0)
    server = make_server(settings, port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        start, busy = time.perf_counter(), time.process_time()
        times = asyncio.run(_all(server, clients, load))
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
    finally:
        server.should_exit = True
        thread.join()
    return {"service": "in turns" if running > 1 else "one by one", "clients": clients} | _figures(times, seconds, busy)


async def _all(server: Server, clients: int, load: Load) -> list[tuple[bool, float, float]]:
    runs = await asyncio.gather(*(client(server.url, load, name) for name in range(clients)))
    return [entry for run in runs for entry in run]


def _figures(times: list[tuple[bool, float, float]], seconds: float, busy: float) -> dict[str, float | int]:
    short = [first for long, first, _ in times if not long]
    long = [end for is_long, _, end in times if is_long]
    return {
        "requests_per_second": round(len(times) / seconds, 2),
        "short_first_text_median_s": round(statistics.median(short), 2) if short else 0,
        "short_first_text_worst_s": round(max(short), 2) if short else 0,
        "long_whole_median_s": round(statistics.median(long), 2),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(busy, 1),
    }


def main() -> None:
    """Measure, and print a line of JSON for every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--dtype")
    parser.add_argument("--device-map")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--long-characters", type=int, default=25_000)
    parser.add_argument("--max-tokens", type=int, default=16)
    options = parser.parse_args()
    model = HomerModel.from_pretrained(options.model, dtype=options.dtype, device_map=options.device_map)
    text = "\n\n".join(document["text"] for document in read_documents([DOCUMENTS]))
    text *= -(-2 * options.long_characters // len(text))
    load = Load(text, options.rounds, options.long_characters, options.max_tokens)
    for clients in options.clients:
        for running in (1, 16):
            print(json.dumps(measure(model, running, clients, load)), flush=True)


if __name__ == "__main__":
    main()
