"""Reading requests: nothing long holds up anything short, and what nobody waits for ends."""

import asyncio
import base64
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from homer import Document, HomerModel, InputError
from homer_integrations.serve import Engine, ServeSettings, create_app
from homer_integrations.serve import pdf as pdf_module
from homer_integrations.serve.app import _Server
from homer_integrations.serve.errors import ServeError
from homer_integrations.serve.jobs import Accepted, Finished, Job
from homer_integrations.serve.lanes import AbandonedError, Lane, Tick
from homer_integrations.serve.pdf import read_pdf
from homer_integrations.serve.protocol import ChatRequest, parse
from tests.serving import FACT, LONG, QUESTION, chat_body, pdf_of

ASKED = ({"role": "user", "content": QUESTION},)
MANY = tuple({"role": "user" if n % 2 == 0 else "assistant", "content": "Why?"} for n in range(16_001))


class Slow:
    """Work that goes on until it is told to end."""

    def __init__(self) -> None:
        self.started, self.ended = threading.Event(), threading.Event()

    def __call__(self, tick: Tick) -> None:
        self.started.set()
        try:
            while True:
                time.sleep(0.01)
                tick()
        finally:
            self.ended.set()


async def until(true: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def test_work_that_is_left_ends_and_what_waits_behind_it_goes_on() -> None:
    lane, slow, never = Lane("test"), Slow(), Slow()
    task = asyncio.create_task(lane.run("one", slow))
    waiting = asyncio.create_task(lane.run("two", never))
    await until(slow.started.is_set)
    waiting.cancel()
    task.cancel()
    await asyncio.gather(task, waiting, return_exceptions=True)
    assert await asyncio.wait_for(lane.run("three", lambda tick: 3), 10) == 3
    assert slow.ended.is_set()
    assert not never.started.is_set()
    lane.close()


async def test_clients_are_let_into_a_lane_by_turns() -> None:
    lane, order, gate = Lane("test"), [], threading.Event()

    def work(name: str) -> Callable[[Tick], None]:
        return lambda tick: (gate.wait(10), order.append(name))[1]

    tasks = [asyncio.create_task(lane.run(name, work(name))) for name in ("many", "many", "many", "one")]
    await asyncio.sleep(0.05)
    gate.set()
    await asyncio.gather(*tasks)
    assert order == ["many", "many", "one", "many"]


async def test_an_error_of_the_work_comes_out() -> None:
    def fail(tick: Tick) -> None:
        raise InputError("bad")

    with pytest.raises(InputError, match="bad"):
        await Lane("test").run("one", fail)


def test_building_a_prompt_ends_where_its_tick_raises(mini: HomerModel) -> None:
    ticks = [0]

    def tick() -> None:
        ticks[0] += 1
        if ticks[0] == 3:
            raise AbandonedError

    documents = [LONG[:30_000]] * 20
    with pytest.raises(AbandonedError):
        mini.build_chat_prompt(ASKED, documents, tick=tick)
    assert ticks[0] == 3
    ticks[0] = 10
    messages = [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "a"}] * 100
    mini.build_chat_prompt([*messages, *ASKED], tick=tick)
    assert ticks[0] > 11


class Reading:
    """An engine whose long prompts are read until somebody ends it."""

    def __init__(self, mini: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slow = Slow()
        self.engine = Engine(ServeSettings(model=mini, served_name="mini"))
        read = self.engine._read
        monkeypatch.setattr(self.engine, "_read", lambda job, tick: self._read(read, job, tick))

    def _read(self, read: Callable[[Job, Tick], Any], job: Job, tick: Tick) -> Any:
        if job.characters > 100_000:
            self.slow(tick)
        return read(job, tick)


@pytest.fixture
def reading(mini: HomerModel, monkeypatch: pytest.MonkeyPatch) -> Reading:
    return Reading(mini, monkeypatch)


async def answered(engine: Engine, *documents: str) -> list[Any]:
    return [event async for event in engine.stream(Job(ASKED, tuple(map(Document, documents))))]


async def test_a_long_prompt_that_is_read_holds_up_no_short_one_and_ends_with_its_client(reading: Reading) -> None:
    task = asyncio.create_task(answered(reading.engine, LONG * 3))
    await until(reading.slow.started.is_set)
    events = await asyncio.wait_for(answered(reading.engine, FACT), 60)
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Finished)
    assert not reading.slow.ended.is_set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(reading.slow.ended.is_set)
    assert reading.engine.busyness()["requests_waiting"] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_its_prompt_is_read_frees_the_reader(reading: Reading, stream: bool) -> None:
    app = create_app(reading.engine, reading.engine.settings)
    body = httpx.Request("POST", "http://a", json=chat_body([LONG * 3], stream=stream))
    gone = asyncio.Event()
    sent: list[Any] = []
    first = [{"type": "http.request", "body": body.content, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if first:
            return first.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions",
        "headers": headers, "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "server": ("localhost", 80), "client": ("1.2.3.4", 5), "asgi": {"version": "3.0"},
    }  # fmt: skip
    task = asyncio.create_task(app(scope, receive, send))
    await until(reading.slow.started.is_set)
    gone.set()
    await asyncio.wait_for(task, 5)
    await until(reading.slow.ended.is_set, 2)
    await until(lambda: reading.engine.busyness()["requests_waiting"] == 0, 2)
    assert not [message for message in sent if message.get("status") == 200]


async def test_a_prompt_that_is_not_read_in_time(reading: Reading) -> None:
    with pytest.raises(TimeoutError, match=r"within 0\.2 seconds"):
        async for _ in reading.engine.stream(Job(ASKED, (Document(LONG * 3),), timeout=0.2)):
            pass
    await until(reading.slow.ended.is_set)


async def test_a_text_that_is_surely_too_long_is_not_read(mini: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(ServeSettings(model=mini, served_name="mini", max_prompt_tokens=1000))
    monkeypatch.setattr(HomerModel, "build_chat_prompt", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ServeError, match="9000 characters, .* takes 8000") as found:
        await answered(engine, "a" * (9000 - len(QUESTION)))
    assert found.value.problem.code == "context_length_exceeded"


async def test_many_short_messages_are_refused_at_once(reading: Reading) -> None:
    app = create_app(reading.engine, reading.engine.settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        answer = await client.post("/v1/chat/completions", json={"model": "mini", "messages": MANY}, timeout=60)
    assert answer.status_code == 400
    assert "16001 messages, and this server takes 1000" in answer.json()["error"]["message"]


def _calls(work: Callable[[], Any]) -> int:
    """How many functions a piece of work calls."""
    count = [0]

    def note(_: Any, event: str, __: Any) -> None:
        count[0] += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count[0]


@pytest.mark.parametrize("name", ["messages", "documents", "files", "stops"])
def test_twice_as_much_takes_twice_the_work_to_parse(name: str) -> None:
    part = {"type": "file", "file": {"filename": "a", "file_data": "data:text/plain;base64,YWJj"}}
    settings = ServeSettings()

    def work(count: int) -> Callable[[], Any]:
        more: dict[str, Any] = {
            "messages": {"messages": [*MANY[: count - 1], MANY[0]]},
            "documents": {"documents": [{"text": f"t{n}", "title": "t"} for n in range(count)]},
            "files": {"messages": [{"role": "user", "content": [part] * count}]},
            "stops": {"stop": ["a"] * (count // 64)},
        }[name]
        content = httpx.Request("POST", "http://a", json=chat_body() | more).content
        return lambda: parse(ChatRequest, content).jobs(settings)[0].characters

    once, twice = _calls(work(400)), _calls(work(800))
    assert twice < 2.2 * once


def test_a_pdf_is_read_by_a_process_that_can_be_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert "48213" in read_pdf("a.pdf", pdf_of(FACT), lambda: None)
    with pytest.raises(InputError, match=r"'a\.pdf' cannot be read as a PDF .*: convert it to text"):
        read_pdf("a.pdf", b"%PDF-1.4 no more", lambda: None)
    with pytest.raises(InputError, match="holds no text"):
        read_pdf("a.pdf", pdf_of(""), lambda: None)
    endless = tmp_path / "endless.py"
    endless.write_text("import time, sys\nsys.stdin.read()\nwhile True: time.sleep(1)")
    monkeypatch.setattr(pdf_module, "_PROGRAM", endless)
    ticks = [0]

    def tick() -> None:
        ticks[0] += 1
        if ticks[0] == 2:
            raise AbandonedError

    start = time.monotonic()
    with pytest.raises(AbandonedError):
        read_pdf("a.pdf", b"x" * 2**20, tick)
    assert time.monotonic() - start < 5


async def test_files_go_by_a_lane_of_their_own(mini: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    server = _Server(Engine(ServeSettings(model=mini, served_name="mini")), ServeSettings(served_name="mini"))
    slow = Slow()
    monkeypatch.setattr("homer_integrations.serve.documents.read_pdf", lambda name, content, tick: slow(tick))
    data = "data:application/pdf;base64," + base64.b64encode(b"%PDF-").decode()
    parts = [{"type": "file", "file": {"filename": "a.pdf", "file_data": data}}, {"type": "text", "text": "Why?"}]

    def body(content: Any) -> bytes:
        return httpx.Request("POST", "http://a", json=chat_body(question=content)).content

    tasks = [asyncio.create_task(server._respond(ChatRequest, body(parts), "one")) for _ in range(8)]
    await until(slow.started.is_set)
    assert (await asyncio.wait_for(server._respond(ChatRequest, body("Why?"), "two"), 60)).status_code == 200
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(slow.ended.is_set)
