"""Looking: documents shortened or ranked by the engine's model, in turns with all else that it does."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Callable

from homer import Compressed, Compressor, TimeoutExceededError
from homer_integrations.serve.errors import too_long
from homer_integrations.serve.jobs import Accepted, CompressJob, Event, Found
from homer_integrations.serve.lanes import Lane, Tick
from homer_integrations.serve.queue import FairQueue
from homer_integrations.serve.settings import ServeSettings
from homer_integrations.serve.turns import Turn, Turns


class Looking:
    """One pass over documents a job, in threads of its own.

    Args:
        queue: lets so many requests of all kinds hold memory at a time.
        turns: share the model, leaf by leaf.
        settle: waits for a GPU, which runs behind.
        computing: is held while a job computes.
    """

    def __init__(
        self,
        settings: ServeSettings,
        queue: FairQueue,
        turns: Turns,
        settle: Callable[[], None],
        computing: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._settings, self._queue, self._turns = settings, queue, turns
        self._settle, self._computing = settle, computing
        self._lane = Lane("homer-looking", settings.max_running)

    def close(self) -> None:
        """Begin nothing more."""
        self._lane.close()

    async def stream(self, job: CompressJob) -> AsyncGenerator[Event, None]:
        """Accepted, Found.

        Raises:
            ServeError: the documents are too long for this server.
            TimeoutExceededError: not done in time.
        """
        if job.characters > self._settings.max_characters:
            raise too_long(f"{job.characters} characters", f"{self._settings.max_characters} at most")
        yield Accepted(0)
        try:
            yield Found(await asyncio.wait_for(self._find(job), job.timeout))
        except TimeoutError:
            message = f"not done within {job.timeout} seconds, the wait in the queue included: send fewer documents"
            raise TimeoutExceededError(message) from None

    async def _find(self, job: CompressJob) -> Compressed:
        async with self._queue.turn_of(job.client):
            return await self._lane.run(job.client, functools.partial(self._compress, job))

    def _compress(self, job: CompressJob, tick: Tick) -> Compressed:
        call = self._settings.call(None, {})
        compressor = Compressor(call.model, marker=job.marker, config=call.config)
        question = job.messages[0]["content"]
        with self._turns.join() as turn, self._computing():
            step = functools.partial(self._step, turn, tick)
            return compressor.compress(question, job.documents, tick=step, **job.options)

    def _step(self, turn: Turn, tick: Tick) -> None:
        """Let others go first, and look whether anybody still waits for this."""
        tick()
        if turn.wanted:
            self._settle()
        turn.pass_on()
        tick()
