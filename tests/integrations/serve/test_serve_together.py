"""Streams of a server go on together, and between the nodes of a prompt that is read."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import DOCUMENTS_OF_FACT, QUESTION, client_of, create, long_documents, running, wait_until
from small import save_small

from homer import Document, HomerModel
from homer.backends.padded import PaddedSlots
from homer.merging.joint import Joint
from homer.merging.walk import Walk
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.engine import Engine
from homer_integrations.serve.jobs import Finished, Job
from homer_integrations.serve.pool import GivingBack


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every step."""
    seen: list[int] = []
    step = PaddedSlots.step

    def counted(slots: PaddedSlots, tokens: Any) -> None:
        seen.append(len(slots))
        step(slots, tokens)

    monkeypatch.setattr(PaddedSlots, "step", counted)
    return seen


@contextlib.contextmanager
def engine_of(mini: HomerModel) -> Iterator[Engine]:
    engine = Engine(ServeSettings(model=mini, served_name="mini", max_running=8))
    try:
        yield engine
    finally:
        engine.close()
        mini.share_steps(contextlib.nullcontext())


def job(documents: Any, **options: Any) -> Job:
    asked = {"role": "user", "content": QUESTION}
    given = tuple(Document(document["text"], document["title"]) for document in documents)
    return Job(messages=(asked,), documents=given, options=options)


async def answered(engine: Engine, asked: Job) -> str:
    (last,) = [event async for event in engine.stream(asked) if isinstance(event, Finished)]
    return last.answer.text


async def test_streams_that_generate_go_together(mini: HomerModel, steps: list[int]) -> None:
    with engine_of(mini) as engine:
        jobs = [job(DOCUMENTS_OF_FACT, max_tokens=40, temperature=1.5, seed=seed) for seed in range(6)]
        alone = [await answered(engine, asked) for asked in jobs]
        single = len(steps)
        steps.clear()
        assert await asyncio.gather(*(answered(engine, asked) for asked in jobs)) == alone
        assert max(steps) > 1
        assert len(steps) < single
        assert engine.busyness()["requests_running"] == 0


async def test_a_prompt_that_is_read_lets_streams_step(mini: HomerModel, steps: list[int]) -> None:
    with engine_of(mini) as engine:
        reading = asyncio.create_task(answered(engine, job(long_documents(60_000), max_tokens=4)))
        while not engine._turns._holder:
            await asyncio.sleep(0.002)
        assert await answered(engine, job(DOCUMENTS_OF_FACT, max_tokens=8))
        assert not reading.done()
        assert await reading


async def test_a_client_that_leaves_frees_its_slot_within_one_step(mini: HomerModel, steps: list[int]) -> None:
    with engine_of(mini) as engine:
        endless = {"max_tokens": 300, "temperature": 1.5}
        gone = engine.stream(job(DOCUMENTS_OF_FACT, seed=1, **endless))
        stays = engine.stream(job(DOCUMENTS_OF_FACT, seed=2, **endless))
        for events in (gone, stays):
            while not isinstance(await anext(events), str):
                pass
        while 2 not in steps:
            await anext(gone)
        await gone.aclose()
        before = len(steps)
        async for _ in stays:
            pass
        assert len(steps) > before + 1
        assert set(steps[before + 1 :]) == {1}  # one step may have been under way


async def test_memory_is_given_back_once_the_last_request_has_ended(mini: HomerModel) -> None:
    with engine_of(mini) as engine:
        told: list[str] = []
        engine._giving_back = GivingBack(give=lambda: None)
        engine._giving_back.work = lambda: told.append("work")  # type: ignore[method-assign]
        engine._giving_back.rest = lambda: told.append("rest")  # type: ignore[method-assign]
        jobs = [job(DOCUMENTS_OF_FACT, max_tokens=count) for count in (2, 20)]
        await asyncio.gather(*(answered(engine, asked) for asked in jobs))
        assert told == ["work", "work", "rest"]


async def test_a_client_that_leaves_ends_what_is_read_within_some_layers(mini: HomerModel) -> None:
    with engine_of(mini) as engine:
        events = engine.stream(job(long_documents(60_000), max_tokens=4))
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        while not engine._turns._holder:
            await asyncio.sleep(0.002)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        start = time.monotonic()
        while engine.busyness()["requests_running"]:
            await asyncio.sleep(0.002)
        assert time.monotonic() - start < 2


@pytest.fixture
def gathering(mini: HomerModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Short prompts are read together, and the first one not before five wait for it; the sizes of batches."""
    seen: dict[str, Any] = {"sizes": [], "before": lambda: None}
    run, alone, joint = Joint._run, Walk.run_together, mini._joint

    def together(self: Joint, company: list[Any], walk: Walk) -> None:
        seen["sizes"].append(len(company))
        seen["before"]()
        run(self, company, walk)

    def first(walk: Walk, *given: Any) -> Any:
        if not seen["sizes"]:
            wait_until(lambda: len(joint._waiting) >= 5)
        return alone(walk, *given)

    joint.rows = 4096
    monkeypatch.setattr(Joint, "_run", together)
    monkeypatch.setattr(Walk, "run_together", first)
    yield seen
    joint.rows = 0


def asked(number: int) -> str:
    return f"What is {'the sum of ' * (number % 3)}{number} and {7 * number}?"


def test_short_messages_of_eight_threads_are_read_together(mini: HomerModel, gathering: dict[str, Any]) -> None:
    def answers(threads: int) -> list[str]:
        settings = ServeSettings(model=mini, served_name="mini", max_running=8)
        with running(settings) as server, ThreadPoolExecutor(threads) as pool:
            client = client_of(server.url)
            created = pool.map(lambda n: create(client, asked(n), max_tokens=12), range(8))
            return [answer.choices[0].message.content for answer in created]

    together = answers(8)
    assert max(gathering["sizes"]) >= 5
    mini._joint.rows = 0
    assert together == answers(1)


async def test_a_client_that_leaves_while_its_message_is_read_with_others_ends_no_other(
    mini: HomerModel, gathering: dict[str, Any]
) -> None:
    jobs = [Job(messages=({"role": "user", "content": asked(n)},), options={"max_tokens": 8}) for n in range(8)]
    runs, gone = threading.Event(), threading.Event()
    gathering["before"] = lambda: (runs.set(), gone.wait(30))
    with engine_of(mini) as engine:
        tasks = [asyncio.create_task(answered(engine, one)) for one in jobs]
        await asyncio.to_thread(runs.wait, 30)
        for leaver in (1, 2):
            tasks[leaver].cancel()
        await asyncio.sleep(0.1)
        gone.set()
        together = await asyncio.gather(*tasks, return_exceptions=True)
        while engine.busyness()["requests_running"]:
            await asyncio.sleep(0.002)
    assert gathering["sizes"][0] >= 5
    mini._joint.rows = 0
    with engine_of(mini) as engine:
        for number in {*range(8)} - {1, 2}:
            assert together[number] == await answered(engine, jobs[number])


def test_what_the_first_question_needs_is_measured_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    monkeypatch.setattr(HomerModel, "measure", lambda model: measured.append(model.name))
    model = HomerModel.from_pretrained(save_small(tmp_path))
    Engine(ServeSettings(model=model, served_name="small")).close()
    assert measured == [model.name]
