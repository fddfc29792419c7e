"""A server under all kinds of clients for minutes: every answer is the one that is given alone, and memory stays flat.

    python benchmarks/soak.py --out soak.json       # ten minutes, one process
    python benchmarks/soak.py --minutes 2 --ray     # two replicas on Ray

The server is started as users start it, by `homer serve`, with a store of compact caches small enough to be full soon.
First every question is asked alone, one after the other. Then clients come and go: they ask these questions, short and
long, greedy and sampled, streamed and whole; some leave in the middle, send garbage, or ask for an answer within less
time than it takes. Whatever text comes must be what came alone, up to where a client left. Memory is that of the
server's processes (USS), read every few seconds; it is flat if its median in the last quarter is at most 2% above
that in the second.
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
from pathlib import Path
from typing import Any

import httpx
import load as loads
import psutil
import shared

from homer import read_documents
from homer.demo import DOCUMENTS

QUESTION = "What is the door code for the northern archive?"
FACT = "The door code for the northern archive is 48213."
LIMITS = "--max-running 16 --max-queue 32 --max-tokens 24 --store-bytes 50000000 --keep-alive 1"
TOLERANCE = 1.02
QUESTIONS = 32  # that differ


def bodies(seed: int) -> list[dict[str, Any]]:
    """What is asked: no two alike, each with a fact and other text, every other one sampled."""
    draw = random.Random(seed)
    text = "\n\n".join(document["text"] for document in read_documents([DOCUMENTS]))
    made = []
    for number in range(QUESTIONS):
        length, start = draw.choice([0, 300, 300, 2000, 8000]), draw.randrange(40_000)
        documents = [FACT, f"{number}. {text[start : start + length]}"]
        sampled = {"temperature": 1.2, "seed": number} if number % 2 else {}
        messages = [{"role": "user", "content": QUESTION}]
        made.append({"model": "mini", "messages": messages, "documents": documents, **sampled})
    return made


class Soak:
    """Clients until the time is over, and what became of their requests.

    Attributes:
        outcomes: how often what happened.
        wrong: what should not have happened.
        compared: texts that were what came alone.
        seconds: that every request took.
    """

    def __init__(self, url: str, seed: int) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.compared = self.came = 0
        self.seconds: list[float] = []
        self._url, self._end, self._random = url, 0.0, random.Random(seed)
        self._bodies, self._alone = bodies(seed), list[str]()
        self._text = "\n\n".join(document["text"] for document in read_documents([DOCUMENTS]))

    async def ask_alone(self) -> None:
        """Every question by itself."""
        async with httpx.AsyncClient(timeout=120) as http:
            for body in self._bodies:
                answer = await http.post(f"{self._url}/chat/completions", json=body)
                self._alone.append(answer.raise_for_status().json()["choices"][0]["message"]["content"])

    async def run(self, clients: int, seconds: float) -> None:
        """So many clients at once; who leaves is followed by another."""
        self._end = time.monotonic() + seconds
        await asyncio.gather(*(self._come() for _ in range(clients)))

    async def _come(self) -> None:
        while time.monotonic() < self._end:
            self.came += 1
            async with httpx.AsyncClient(timeout=120) as http:
                await self._client(http, self._random.randrange(1, 8))

    async def _client(self, http: httpx.AsyncClient, requests: int) -> None:
        kinds = [self._whole] * 4 + [self._streamed] * 4 + [self._leaves] * 2 + [self._garbage, self._hurries]
        for _ in range(requests):
            if time.monotonic() >= self._end:
                return
            kind, start = self._random.choice(kinds), time.monotonic()
            try:
                self.outcomes[f"{kind.__name__[1:]}: {await kind(http)}"] += 1
            except httpx.HTTPError as error:
                left = self._end - time.monotonic()
                self.wrong.append(f"{kind.__name__[1:]}: {error!r} with {left:.0f} s to go")
            self.seconds.append(time.monotonic() - start)

    def _question(self, **more: object) -> tuple[int, dict[str, Any]]:
        number = self._random.randrange(len(self._bodies))
        return number, self._bodies[number] | more

    def _compare(self, number: int, text: str, whole: bool) -> None:
        alone = self._alone[number]
        if text != alone if whole else not alone.startswith(text):
            self.wrong.append(f"question {number}: {text!r} in place of {alone!r}")
        self.compared += 1

    async def _whole(self, http: httpx.AsyncClient) -> str:
        number, body = self._question()
        answer = await http.post(f"{self._url}/chat/completions", json=body)
        if answer.status_code == 200:
            self._compare(number, answer.json()["choices"][0]["message"]["content"], whole=True)
        return await self._judged(answer, 200)

    async def _streamed(self, http: httpx.AsyncClient) -> str:
        number, body = self._question(stream=True)
        answer = await http.post(f"{self._url}/chat/completions", json=body)
        if answer.status_code == 200:
            self._compare(number, "".join(map(_text, answer.text.splitlines())), whole=True)
            if not answer.text.endswith("data: [DONE]\n\n"):
                self.wrong.append(answer.text[-200:])
        return await self._judged(answer, 200)

    async def _leaves(self, http: httpx.AsyncClient) -> str:
        (number, body), said = self._question(stream=True), ""
        async with http.stream("POST", f"{self._url}/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                said += _text(line)
                if self._random.random() < 0.3:
                    self._compare(number, said, whole=False)
                    return f"left at status {answer.status_code}"
        return "read to its end"

    async def _garbage(self, http: httpx.AsyncClient) -> str:
        content = self._random.choice([b"", b"{", self._random.randbytes(1000), b'{"model": 1}', b"[" * 10_000])
        kind = {"content-type": "application/json"}
        answer = await http.post(f"{self._url}/chat/completions", content=content, headers=kind)
        return await self._judged(answer, 400)

    async def _hurries(self, http: httpx.AsyncClient) -> str:
        body = self._bodies[0] | {"documents": [self._text], "timeout": 0.5}
        answer = await http.post(f"{self._url}/chat/completions", json=body)
        return await self._judged(answer, 504)

    async def _judged(self, answer: httpx.Response, expected: int) -> str:
        """The status; a full queue is in order, and a client that is told so waits a little."""
        if answer.status_code == 429:
            await asyncio.sleep(0.3)
        elif answer.status_code != expected:
            self.wrong.append(f"{answer.status_code} in place of {expected}: {answer.text[:200]}")
        return str(answer.status_code)


def _text(line: str) -> str:
    """The text in a line of a stream."""
    if not line.startswith("data: {"):
        return ""
    return loads.text_of(json.loads(line[6:]))


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
    clients, readings = Soak(url, options.seed), list[float]()
    await clients.ask_alone()
    watching = asyncio.ensure_future(memory(server, options.minutes / 5, readings))
    await clients.run(options.clients, options.minutes * 60)
    watching.cancel()
    return clients, readings


def main() -> int:
    """Print what became of every kind of request and of memory; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    with served(options.ray) as (url, server):
        clients, readings = asyncio.run(soak(url, server, options))
        health = httpx.get(url.replace("/v1", "/healthz")).json()
    quarters = [statistics.median(part) for part in _quarters(readings)]
    flat = quarters[3] <= TOLERANCE * quarters[1]
    report = shared.facts() | {
        "minutes": options.minutes, "clients": options.clients, "clients_that_came": clients.came,
        "requests": clients.outcomes.total(), "texts_compared": clients.compared,
        "seconds_of_a_request": loads.at_shares("s", clients.seconds) | {"most": max(clients.seconds, default=0.0)},
        "outcomes": dict(sorted(clients.outcomes.items())), "wrong": clients.wrong[:10], "afterwards": health,
        "memory_mb_by_quarter": [round(quarter) for quarter in quarters], "flat": flat,
        "memory_mb": [round(reading) for reading in readings],
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    shared.write_json(options.out, report)
    return 0 if flat and not clients.wrong else 1


def _quarters(readings: list[float]) -> list[list[float]]:
    size = len(readings) // 4
    return [readings[i * size : (i + 1) * size] for i in range(4)]


if __name__ == "__main__":
    sys.exit(main())
