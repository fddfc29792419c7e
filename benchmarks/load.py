"""An open-loop load on any server that speaks OpenAI's protocol, and what its clients saw of it.

    python benchmarks/load.py --url http://127.0.0.1:8000/v1 --model mini --clients 16 --lengths 1024 4096 16384
    python benchmarks/load.py --url http://127.0.0.1:8001/v1 --model NAME --inline      # documents inside the message

Requests arrive by a Poisson process, whether those before were answered or not, so that a server that is too slow
cannot slow the load down; seconds count from when a request was due. Each comes from one of so many clients, with
documents of one of the lengths that nobody has sent before. Some are chats: another question follows the answer, with
the whole conversation and the same documents. Equal seeds are equal loads.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

DOCUMENTS = Path(__file__).parent.parent / "homer" / "demo" / "documents"
QUESTIONS = ("What is remark 7?", "And what is remark 8?", "Which of them came first?")
SHARES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


@dataclasses.dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        clients: among whom requests are shared out at random.
        rate: requests a second on average, follow-up questions not counted.
        seconds: during which requests arrive; drain: for which answers are waited for afterwards.
        lengths: tokens of documents, one of which every request has; one named twice comes twice as often.
        characters: of a token, about.
        document: tokens of one document.
        chats: the share of requests that are followed by another question, up to twice.
        pause: seconds that a client takes on average before it asks again.
        inline: documents stand in the message, for servers that take no `documents`.
    """

    clients: int
    rate: float
    seconds: float
    drain: float
    lengths: tuple[int, ...]
    max_tokens: int
    characters: float = 4.0
    document: int = 500
    chats: float = 0.25
    pause: float = 2.0
    inline: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Arrival:
    """One request, and the questions that follow it."""

    at: float
    client: int
    length: int
    turns: int
    documents: tuple[str, ...]


@dataclasses.dataclass
class Record:
    """What became of one question; times in seconds, from when it was due.

    Attributes:
        status: "done", "unfinished" when nobody waited any longer, or what went wrong.
        gaps: between pieces of text.
    """

    client: int
    turn: int
    length: int
    due: float
    status: str = "unfinished"
    first: float | None = None
    end: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    gaps: list[float] = dataclasses.field(default_factory=list)
    text: str = ""


def arrivals(load: Load) -> list[Arrival]:
    """All requests, in the order in which they are due."""
    draw, at, made = random.Random(load.seed), 0.0, list[Arrival]()
    said = told(load.seed)
    while (at := at + draw.expovariate(load.rate)) < load.seconds:
        client, length = draw.randrange(load.clients), draw.choice(load.lengths)
        turns = 1 + sum(draw.random() < load.chats for _ in range(2))
        made.append(Arrival(at, client, length, turns, tuple(documents(said, load, length))))
    return made


def documents(said: Iterator[str], load: Load, length: int) -> Iterator[str]:
    """Documents of so many tokens in all."""
    for tokens in [load.document] * (length // load.document) + [length % load.document]:
        parts = list[str]()
        while sum(map(len, parts)) < tokens * load.characters:
            parts.append(next(said))
        if parts:
            yield " ".join(parts)


def told(seed: int) -> Iterator[str]:
    """Sentences of the documents shipped, numbered so that none comes twice."""
    texts = [
        path.read_text(encoding="utf-8") for path in sorted(DOCUMENTS.rglob("*")) if path.suffix in (".txt", ".md")
    ]
    known = [" ".join(part.split()) for part in re.split(r"(?<=[.!?])\s", " ".join(texts)) if part.strip()]
    draw = random.Random(seed)
    return (f"{draw.choice(known)} This is remark {number}." for number in itertools.count(seed * 10**6))


async def run(url: str, model: str, load: Load, key: str | None = None) -> tuple[list[Record], float]:
    """What became of every question, and the seconds until the last was answered or given up."""
    records, due = list[Record](), arrivals(load)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=None, headers=headers, limits=limits, trust_env=False) as http:
        start = time.perf_counter()
        asking = [asyncio.ensure_future(_session(http, url, model, load, each, start, records)) for each in due]
        if asking:
            _, left = await asyncio.wait(asking, timeout=load.seconds + load.drain)
            for task in left:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return records, time.perf_counter() - start


async def _session(
    http: httpx.AsyncClient, url: str, model: str, load: Load, arrival: Arrival, start: float, records: list[Record]
) -> None:
    draw, due = random.Random(f"{load.seed} {arrival.at}"), arrival.at
    messages = list[dict[str, str]]()
    for turn in range(arrival.turns):
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        record = Record(arrival.client, turn, arrival.length, due)
        records.append(record)
        messages.append({"role": "user", "content": QUESTIONS[turn]})
        body = _body(model, load, arrival, messages)
        try:
            await _ask(http, url, body, record, start)
        except (httpx.HTTPError, RuntimeError) as error:
            record.status = f"{type(error).__name__}: {error}"[:300]
        if record.status != "done":
            return
        messages.append({"role": "assistant", "content": record.text or "-"})
        due = time.perf_counter() - start + draw.expovariate(1 / load.pause)


def _body(model: str, load: Load, arrival: Arrival, messages: Sequence[dict[str, str]]) -> dict[str, Any]:
    sent = [dict(message) for message in messages]
    body: dict[str, Any] = {
        "model": model, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": load.max_tokens,
        "user": f"client {arrival.client}", "messages": sent,
    }  # fmt: skip
    if load.inline:
        sent[0]["content"] = "\n\n".join([*arrival.documents, sent[0]["content"]])
    else:
        body["documents"] = list(arrival.documents)
    return body


async def _ask(http: httpx.AsyncClient, url: str, body: dict[str, Any], record: Record, start: float) -> None:
    last = 0.0
    async with http.stream("POST", f"{url}/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"status {answer.status_code}: {(await answer.aread())[:200]!r}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            now, chunk = time.perf_counter() - start - record.due, json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(str(chunk["error"])[:200])
            text = text_of(chunk)
            if text and record.first is None:
                record.first = now
            elif text:
                record.gaps.append(now - last)
            record.text, last = record.text + text, now if text else last
            _count(record, chunk.get("usage"))
            record.end = now
    record.status = "done"


def text_of(chunk: dict[str, Any]) -> str:
    """The text in a piece of a stream."""
    choices = chunk.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


def _count(record: Record, usage: dict[str, Any] | None) -> None:
    if usage:
        record.prompt_tokens, record.tokens = usage["prompt_tokens"], usage["completion_tokens"]
        record.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def figures(records: Sequence[Record], seconds: float) -> dict[str, Any]:
    """Throughput, and times at p50, p90 and p99; of what was not answered, only how much it was."""
    done = [record for record in records if record.status == "done"]
    failed = [record.status for record in records if record.status not in ("done", "unfinished")]
    end = max((record.due + (record.end or 0.0) for record in done), default=seconds)
    each = [
        (record.end - record.first) / (record.tokens - 1)
        for record in done
        if record.tokens > 1 and record.end is not None and record.first is not None
    ]
    gaps = [gap for record in records for gap in record.gaps]
    row = {
        "requests": len(records), "done": len(done), "failed": len(failed),
        "requests_per_s": len(done) / end, "read_per_s": sum(record.prompt_tokens for record in done) / end,
        "cached_share": _share(sum(r.cached_tokens for r in done), sum(r.prompt_tokens for r in done)),
        "new_per_s": sum(record.tokens for record in done) / end, "seconds": end,
    }  # fmt: skip
    row |= at_shares("first_s", [record.first for record in records if record.first is not None])
    row |= at_shares("token_ms", [1000 * value for value in each])
    row |= at_shares("gap_ms", [1000 * gap for gap in gaps]) | {"gap_ms_most": 1000 * max(gaps, default=0.0)}
    shortest = min((record.length for record in records), default=0)
    firsts = [record.first for record in records if record.length == shortest and record.first is not None]
    row |= {f"shortest_{name}": value for name, value in at_shares("first_s", firsts).items()}
    return row | ({"failure": failed[0]} if failed else {})


def at_shares(name: str, values: Iterable[float]) -> dict[str, float]:
    """Of values the ones below which half, nine tenths and 99 of 100 lie; nothing where there are none."""
    ordered = sorted(values)
    if not ordered:
        return {}
    return {f"{name}_{label}": ordered[min(len(ordered) - 1, int(part * len(ordered)))] for label, part in SHARES}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


SHOWN = (("first s", "first_s", ".2f"), ("token ms", "token_ms", ".1f"), ("gap ms", "gap_ms", ".0f"))


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    times = " | ".join(
        f"{name} {' / '.join(format(row[f'{key}_{label}'], form) for label, _ in SHARES)}"
        for name, key, form in SHOWN
        if f"{key}_p50" in row
    )
    counts = f"{row['done']:3d} of {row['requests']:3d} done, {row['failed']} failed"
    rates = f"{row['requests_per_s']:.2f} requests/s, {row['read_per_s']:,.0f} + {row['new_per_s']:.0f} tokens/s"
    return f"{counts} | {rates} | {times} | most {row['gap_ms_most']:.0f}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that say what is sent."""
    parser.add_argument("--seconds", type=float, default=15, help="during which requests arrive")
    parser.add_argument("--drain", type=float, default=15, help="seconds for answers after that")
    parser.add_argument("--pause", type=float, default=20, help="seconds between two requests of a client, on average")
    parser.add_argument("--least", type=int, default=4, help="requests at least, on average, however few clients")
    parser.add_argument("--max-tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--chats", type=float, default=0.25, help="share of answers that a question follows")
    parser.add_argument("--document", type=int, default=500, help="tokens of a document")
    parser.add_argument("--seed", type=int, default=0)


def load_of(options: argparse.Namespace, clients: int, lengths: Sequence[int], characters: float) -> Load:
    """The load of so many clients."""
    rate = max(clients / options.pause, options.least / options.seconds)
    return Load(
        clients, rate, options.seconds, options.drain, tuple(lengths), options.max_tokens, characters,
        options.document, options.chats, seed=options.seed, inline=getattr(options, "inline", False),
    )  # fmt: skip


def main() -> None:
    """Send it, and print a row for every number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="up to /v1")
    parser.add_argument("--model", required=True, help="the name that the server gives it")
    parser.add_argument("--api-key")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 4096, 4096, 16384, 16384, 65536, 131072])
    parser.add_argument("--characters", type=float, default=4.0, help="of a token, about")
    parser.add_argument("--inline", action="store_true", help="documents inside the message")
    parser.add_argument("--out", type=Path, help="a folder for what every client saw, as JSON lines")
    add_options(parser)
    options = parser.parse_args()
    for clients in options.clients:
        load = load_of(options, clients, options.lengths, options.characters)
        records, seconds = asyncio.run(run(options.url, options.model, load, options.api_key))
        row = {"clients": clients, "rate": load.rate} | figures(records, seconds)
        print(f"{clients:3d} clients, {load.rate:.2f}/s | {line(row)}", flush=True)
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            write(options.out / f"{clients}.jsonl", [row, *map(dataclasses.asdict, records)])


def drive(told: dict[str, Any]) -> None:
    """Send a load that another process describes; print what became of it."""
    load = Load(**told["load"])
    records, seconds = asyncio.run(run(told["url"], "served", load))
    print(json.dumps({"records": [dataclasses.asdict(record) for record in records], "seconds": seconds}))


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
