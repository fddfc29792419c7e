"""Engine: one model, a bounded queue, prompts that are read by turns, and streams that go on together."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from homer import (
    AnswerStream,
    Citation,
    CompactCache,
    HomerModel,
    Prompt,
    Sampling,
    StateStore,
    TimeoutExceededError,
)
from homer_integrations.serve.counted import Counted
from homer_integrations.serve.errors import queue_full, too_long
from homer_integrations.serve.jobs import Accepted, CompressJob, Event, Finished, Job
from homer_integrations.serve.lanes import Lane, Tick
from homer_integrations.serve.limits import check_room
from homer_integrations.serve.looking import Looking
from homer_integrations.serve.pool import GivingBack
from homer_integrations.serve.queue import FairQueue
from homer_integrations.serve.settings import ServeSettings
from homer_integrations.serve.store import CacheStore, cache_key
from homer_integrations.serve.turns import Pace, Turns
from homer_integrations.shared.loading import shared_store
from homer_integrations.shared.settings import Call
from homer_integrations.shared.threads import stream_in_thread

_HELLO = {"role": "user", "content": "?"}
_LONG = 100_000  # characters; reading fewer takes a fraction of a second


class Engine:
    """Answers jobs with one model, in threads of its own.

    At most `max_running` requests hold memory at a time, and at most `max_queue` wait. Prompts are read by turns, some
    layers at a time, and in between all streams that generate take a step together. Compact caches are kept for
    identical requests.

    Raises:
        HomerError: the model cannot be loaded; says why.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.model: HomerModel = settings.load()
        self.model.require_tokenizer("serve")
        self.model.build_chat_prompt([_HELLO], chat_template_kwargs=settings.chat_template_kwargs)  # or an error now
        self.model.prepare()  # else the first request would wait, beyond any timeout
        self.store = CacheStore(
            settings.store_bytes, settings.store_folder, settings.store_folder_bytes, str(self.model.decoder.device)
        )
        self._states = _states(settings)
        self._turns = Turns()
        self.model.share_steps(self._turns.join(urgent=True))
        self._queue = FairQueue(settings.max_running)
        self._running = ThreadPoolExecutor(settings.max_running, "homer-running")
        self._short, self._long = Lane("homer-short"), Lane("homer-long")
        self._looking = Looking(settings, self._queue, self._turns, self.settle, self._computing)
        self._giving_back = GivingBack()
        self._admitted = 0
        self._busy = 0
        self._seconds = 0.1  # between the ends of two requests of late, on average

    def busyness(self) -> dict[str, float]:
        """Figures of the moment, by name."""
        return {
            "requests_running": self._busy,
            "requests_waiting": max(0, self._admitted - self._busy),
            "store_bytes": self.store.nbytes,
            "store_caches": len(self.store),
        }

    def settle(self) -> None:
        """Wait for a GPU, which runs behind: else others would wait for what is already begun, and not be counted."""
        device = self.model.decoder.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def close(self) -> None:
        """Wait for no more requests; those that run are finished."""
        self._short.close()
        self._long.close()
        self._looking.close()
        self._running.shutdown(cancel_futures=True)

    async def stream(self, job: Job) -> AsyncGenerator[Event, None]:
        """Accepted, pieces of text, for each answer Finished; of a CompressJob, Found. Closing ends it after a step.

        Raises:
            ServeError: the queue is full, or the prompt too long for this server.
            TimeoutExceededError: not answered in time.
            HomerError: bad messages, documents or options.
        """
        if isinstance(job, CompressJob):
            with self._admission():
                async with contextlib.aclosing(self._looking.stream(job)) as events:
                    async for event in events:
                        yield event
            return
        deadline = None if job.timeout is None else time.monotonic() + job.timeout
        with self._admission():
            lane = self._long if job.characters > _LONG else self._short
            reading = lane.run(job.client, functools.partial(self._read, job))
            call, prompt = await _in_time(reading, deadline, job)
            yield Accepted(len(prompt))
            async with contextlib.AsyncExitStack() as held:
                await _in_time(held.enter_async_context(self._queue.turn_of(job.client)), deadline, job)
                request = _Request(self, call, prompt, job.n)
                items = stream_in_thread(request.open, self._running)
                held.push_async_callback(items.aclose)
                while isinstance(item := await _in_time(anext(items), deadline, job), str):
                    yield item
            for choice, answer in enumerate(item):
                cached = len(prompt) if request.reused else answer.usage.cached_tokens
                yield Finished(dataclasses.replace(answer, trace=None), cached, call.cite, choice)

    @contextlib.contextmanager
    def _admission(self) -> Iterator[None]:
        """One more among those that run and wait."""
        limit = self.settings.max_running + self.settings.max_queue
        if self._admitted >= limit:
            raise queue_full(self._admitted, max(1, min(60, round(self._seconds * self._admitted))))
        self._admitted += 1
        self._giving_back.work()
        start = time.monotonic()
        try:
            yield
        finally:
            share = (time.monotonic() - start) / max(1, self._admitted)  # what it kept others from
            self._seconds += 0.1 * (share - self._seconds)
            self._admitted -= 1
            if not self._admitted:
                self._giving_back.rest()

    def _note_busy(self, change: int) -> None:
        self._busy += change

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        self._note_busy(1)
        try:
            yield
        finally:
            self._note_busy(-1)

    def _read(self, job: Job, tick: Tick) -> tuple[Call, Prompt]:
        """Settings and prompt, checked before anything is computed."""
        if job.characters > self.settings.max_characters:
            raise too_long(f"{job.characters} characters", f"{self.settings.max_characters} at most")
        call = self.settings.call(None, job.options)
        options: dict[str, Any] = {"config": call.config, "max_new_tokens": call.max_new_tokens}
        standing: dict[str, Any] = {  # they stay from turn to turn
            "place": job.place,
            "documents_first": self._states is not None,
        }
        turn = job.wanted.turn(self.model, job.messages)
        asked = {"grammar": turn.grammar, "logprobs": job.logprobs}
        laid: dict[str, Any] = {"chat_template_kwargs": call.template} | standing
        prompt = self.model.build_chat_prompt(turn.messages, job.documents, tick=tick, **laid, **options)
        call = dataclasses.replace(call, generation={"thinking": prompt.thinking} | call.generation | asked)
        if len(prompt) > self.settings.max_prompt_tokens:
            raise too_long(f"{len(prompt)} tokens", f"{self.settings.max_prompt_tokens}")
        check_room(call, prompt)
        self.model.check_prompt(prompt, cite=call.cite, **options, **call.generation)
        return call, prompt


class _Request:
    """One request on its way through the engine."""

    def __init__(self, engine: Engine, call: Call, prompt: Prompt, count: int) -> None:
        self.reused = False
        self._engine, self._call, self._prompt, self._count = engine, call, prompt, count
        self._turn, self._pace = engine._turns.join(), Pace(engine.model.decoder.device)

    def open(self) -> Counted:
        cite = self._cite if self._call.cite else None
        stream = AnswerStream(self._prompt, self._compress, self._generate, cite)
        return Counted(stream.several(self._count), self._engine._note_busy)

    def _compress(self, watch: Callable[[Any], None], tick: Callable[[], None]) -> CompactCache:
        call, store, states = self._call, self._engine.store, self._engine._states
        options: dict[str, Any] = {"config": call.config, "max_new_tokens": call.max_new_tokens}
        key = cache_key(call.model, self._prompt, **options, encoded=states is not None)
        cache = store.get(key)
        self.reused = cache is not None
        if cache is None:
            options |= {"store": states, "watch": self._stepping(watch), "tick": self._stepping(tick)}
            cache = call.model.compress_prompt(self._prompt, **options, turn=self._turn)
            store.put(key, cache)
        return cache

    def _stepping(self, check: Callable[..., None]) -> Callable[..., None]:
        """Lets others go first between layers, and looks before and after whether anybody still waits for this."""

        def step(*node: Any) -> None:
            check(*node)
            if not self._turn.computes:  # others read it with theirs
                return
            if self._engine._busy > 1:
                self._pace.keep()
            if self._turn.wanted:
                self._engine.settle()
            self._turn.pass_on()
            check(*node)

        return step

    def _cite(self, prompt: Prompt, cache: CompactCache, text: str) -> tuple[Citation, ...]:
        with self._turn:
            return self._call.model.cite(prompt, cache, text)

    def _generate(self, cache: CompactCache, number: int = 0) -> Any:
        call = self._call
        seed = Sampling(seed=call.generation.get("seed")).sample(number).seed
        return call.model.stream(cache, call.max_new_tokens, **call.generation | {"seed": seed})


def _states(settings: ServeSettings) -> StateStore | None:
    """Where states of documents are kept, so that those that come again are not read again."""
    if settings.reuse is not None or not settings.keeps_states:
        return shared_store(settings.reuse)
    return StateStore(
        settings.states_folder, memory_bytes=settings.states_bytes, disk_bytes=settings.states_folder_bytes
    )


async def _in_time(awaitable: Any, deadline: float | None, job: Job) -> Any:
    try:
        return await asyncio.wait_for(awaitable, None if deadline is None else max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        raise TimeoutExceededError(
            f"no whole answer within {job.timeout} seconds, the wait in the queue included: ask for fewer tokens, "
            f"send fewer documents, or try again when the server has less to do"
        ) from None
