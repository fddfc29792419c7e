"""One request's way from jobs to a response, streamed or whole, with an eye on whether the client is still there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent

from homer import Piece
from homer_integrations.serve.errors import Problem, ServeError, problem_of
from homer_integrations.serve.jobs import Accepted, Backend, Event, Finished, Job
from homer_integrations.serve.metrics import Metrics
from homer_integrations.serve.responses import Shape

GONE = Problem(499, "the client went away")  # nobody reads it; others log this status
_SEND_SECONDS = 60  # a client that reads no more for so long is taken for gone
Result = TypeVar("Result")


class Answering:
    """The answers to one request's jobs, one after the other."""

    def __init__(self, backend: Backend, metrics: Metrics, jobs: list[Job], shape: Shape) -> None:
        self._backend, self._metrics, self._jobs, self._shape = backend, metrics, jobs, shape
        self._start = time.monotonic()
        self._first = 0.0

    async def whole(self) -> dict[str, Any]:
        """The response that is not streamed. Raises HomerError."""
        results = [await self._finish(self._backend.stream(job)) for job in self._jobs]
        return self._shape.whole([result for several in results for result in several])

    async def stream(self, keep_alive: float, wants_usage: bool) -> EventSourceResponse:
        """The response as it comes, with a comment now and then so that nobody closes a silent connection.

        Raises:
            HomerError: what is known before any text. Later errors are an event of the stream, and its last.
        """
        events = self._backend.stream(self._jobs[0])
        accepted = asyncio.ensure_future(anext(events))
        try:
            done, _ = await asyncio.wait({accepted}, timeout=keep_alive)
        except asyncio.CancelledError:  # the client is gone, and nobody will iterate
            accepted.cancel()
            await asyncio.gather(accepted, return_exceptions=True)
            raise
        if done:
            accepted.result()
        return EventSourceResponse(
            self._chunks(accepted, events, wants_usage),
            sep="\n",
            ping=keep_alive,
            send_timeout=_SEND_SECONDS,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
        )

    async def _chunks(
        self, accepted: asyncio.Future[Event], events: AsyncGenerator[Event, None], wants_usage: bool
    ) -> AsyncIterator[str]:
        results: list[Finished] = []
        try:
            for index in range(self._jobs[0].n):
                first = self._shape.first(index)
                if first is not None:
                    yield json.dumps(first)
            async with contextlib.aclosing(events):
                await accepted
                async for chunk in self._texts(0, events, results):
                    yield chunk
            for number, job in enumerate(self._jobs[1:], 1):
                async with contextlib.aclosing(self._backend.stream(job)) as others:
                    async for chunk in self._texts(number * job.n, others, results):
                        yield chunk
            if wants_usage:
                yield json.dumps(self._shape.counts(results))
            yield "[DONE]"
        except (GeneratorExit, asyncio.CancelledError):
            self._metrics.cancelled.inc()
            raise
        except Exception as error:
            yield json.dumps(problem_of(error).body)

    async def _texts(self, start: int, events: AsyncIterator[Event], results: list[Finished]) -> AsyncIterator[str]:
        """The chunks of one job, whose first choice has the index `start`."""
        async for event in events:
            if isinstance(event, str):
                self._note_text()
                choice = event.choice if isinstance(event, Piece) else 0
                for chunk in self._shape.pieces(start + choice, event):
                    yield json.dumps(chunk)
            elif isinstance(event, Finished):
                self._count(event)
                results.append(event)
                for chunk in self._shape.last(start + event.choice, event):
                    yield json.dumps(chunk)

    async def _finish(self, events: AsyncGenerator[Event, None]) -> list[Finished]:
        results: list[Finished] = []
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    self._count(event)
                    results.append(event)
                elif not isinstance(event, Accepted):
                    self._note_text()
        return results

    def _note_text(self) -> None:
        self._first = self._first or time.monotonic() - self._start

    def _count(self, result: Finished) -> None:
        whole = time.monotonic() - self._start
        self._metrics.finished(result, self._first or whole, whole)


async def while_there(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of the work, which ends early when the client goes away.

    Raises:
        ServeError: the client is gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServeError(GONE)
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
