"""A server under all kinds of clients for minutes: everything is answered or refused, and memory stays flat.

    python benchmarks/soak.py                       # ten minutes, one process
    python benchmarks/soak.py --minutes 2 --ray     # two replicas on Ray

The server is started as users start it, by `homer serve`, with a store of compact caches small enough to be full soon.
Clients ask short and long questions, the same and new ones, streamed and whole; others go away in the middle, send
garbage, or ask for an answer within less time than it takes. Memory is that of the server's processes (USS), read
every few seconds; it is flat if its median in the last quarter is at most a twentieth above that in the second.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil

from homer import read_documents
from homer.demo import DOCUMENTS

QUESTION = "What is the door code for the northern archive?"
FACT = "The door code for the northern archive is 48213."
LIMITS = "--max-running 4 --max-queue 8 --max-tokens 16 --store-bytes 50000000 --keep-alive 1"
TOLERANCE = 1.05


class Soak:
    """Clients until the time is over, and what became of their requests."""

    def __init__(self, url: str, seconds: float, seed: int) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self._url, self._end, self._random = url, time.monotonic() + seconds, random.Random(seed)
        self._text = "\n\n".join(document["text"] for document in read_documents([DOCUMENTS]))

    async def run(self, clients: int) -> None:
        """All clients at once."""
        await asyncio.gather(*(self._client() for _ in range(clients)))

    async def _client(self) -> None:
        kinds = [self._whole] * 4 + [self._streamed] * 4 + [self._leaves] * 2 + [self._garbage, self._hurries]
        async with httpx.AsyncClient(timeout=120) as http:
            while time.monotonic() < self._end:
                kind = self._random.choice(kinds)
                try:
                    self.outcomes[f"{kind.__name__[1:]}: {await kind(http)}"] += 1
                except httpx.HTTPError as error:
                    self.wrong.append(f"{kind.__name__[1:]}: {error!r}")

    def _body(self, **more: object) -> dict[str, object]:
        length = self._random.choice([0, 300, 300, 2000, 8000])
        start = self._random.choice([0, self._random.randrange(40_000)])
        documents = [FACT, *([self._text[start : start + length]] if length else [])]
        messages = [{"role": "user", "content": QUESTION}]
        return {"model": "mini", "messages": messages, "documents": documents} | more

    async def _whole(self, http: httpx.AsyncClient) -> str:
        answer = await http.post(f"{self._url}/chat/completions", json=self._body())
        return await self._judged(answer, 200)

    async def _streamed(self, http: httpx.AsyncClient) -> str:
        answer = await http.post(f"{self._url}/chat/completions", json=self._body(stream=True))
        if answer.status_code == 200 and not answer.text.endswith("data: [DONE]\n\n"):
            self.wrong.append(answer.text[-200:])
        return await self._judged(answer, 200)

    async def _leaves(self, http: httpx.AsyncClient) -> str:
        async with http.stream("POST", f"{self._url}/chat/completions", json=self._body(stream=True)) as answer:
            async for _ in answer.aiter_lines():
                if self._random.random() < 0.3:
                    return f"left at status {answer.status_code}"
        return "read to its end"

    async def _garbage(self, http: httpx.AsyncClient) -> str:
        content = self._random.choice([b"", b"{", self._random.randbytes(1000), b'{"model": 1}', b"[" * 10_000])
        answer = await http.post(f"{self._url}/chat/completions", content=content)
        return await self._judged(answer, 400)

    async def _hurries(self, http: httpx.AsyncClient) -> str:
        body = self._body(documents=[self._text], timeout=0.5)
        answer = await http.post(f"{self._url}/chat/completions", json=body)
        return await self._judged(answer, 504)

    async def _judged(self, answer: httpx.Response, expected: int) -> str:
        """The status; a full queue is in order, and a client that is told so waits a little."""
        if answer.status_code == 429:
            await asyncio.sleep(0.3)
        elif answer.status_code != expected:
            self.wrong.append(f"{answer.status_code} in place of {expected}: {answer.text[:200]}")
        return str(answer.status_code)


@contextmanager
def served(ray: bool) -> Iterator[tuple[str, psutil.Process]]:
    """A server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    more = ["--ray", "--replicas", "2"] if ray else []
    command = [sys.executable, "-m", "homer", "serve", "--port", port, *LIMITS.split(), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start; run `homer serve` to see why")
        yield line.split()[-1], psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


async def memory(server: psutil.Process, every: float, readings: list[float]) -> None:
    """MB of the processes that hold a model or the web application, as long as it is not cancelled."""
    while True:
        await asyncio.sleep(every)
        family = [server, *(p for p in server.children(recursive=True) if "ServeReplica" in " ".join(p.cmdline()))]
        readings.append(sum(process.memory_full_info().uss for process in family) / 1e6)


async def soak(url: str, server: psutil.Process, options: argparse.Namespace) -> tuple[Soak, list[float]]:
    """Run clients, and read memory meanwhile."""
    clients, readings = Soak(url, options.minutes * 60, options.seed), []
    watching = asyncio.ensure_future(memory(server, options.minutes, readings))
    await clients.run(options.clients)
    watching.cancel()
    return clients, readings


def main() -> int:
    """Print what became of every kind of request and of memory; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with served(options.ray) as (url, server):
        clients, readings = asyncio.run(soak(url, server, options))
        health = httpx.get(url.replace("/v1", "/healthz")).json()
    quarters = [statistics.median(part) for part in _quarters(readings)]
    flat = quarters[3] <= TOLERANCE * quarters[1]
    report = {
        "minutes": options.minutes, "clients": options.clients, "requests": clients.outcomes.total(),
        "outcomes": dict(sorted(clients.outcomes.items())), "wrong": clients.wrong[:10], "afterwards": health,
        "memory_mb_by_quarter": [round(quarter) for quarter in quarters], "flat": flat,
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    return 0 if flat and not clients.wrong else 1


def _quarters(readings: list[float]) -> list[list[float]]:
    size = len(readings) // 4
    return [readings[i * size : (i + 1) * size] for i in range(4)]


if __name__ == "__main__":
    sys.exit(main())
