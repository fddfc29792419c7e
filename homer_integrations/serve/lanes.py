"""Lanes: threads for one kind of work, into which clients are let by turns, and which nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from homer_integrations.serve.queue import FairQueue

Result = TypeVar("Result")
Tick = Callable[[], None]  # called by work now and then; what it raises ends the work


class Lane:
    """So many threads of its own: what is long goes by another lane, so that it holds up nothing short."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._queue = FairQueue(threads)
        self._workers = ThreadPoolExecutor(threads, name)

    async def run(self, client: str, work: Callable[[Tick], Result]) -> Result:
        """What the work gives. Where this is cancelled, the work ends at its next tick, or never begins."""
        left = threading.Event()

        def tick() -> None:
            if left.is_set():
                raise AbandonedError

        async with self._queue.turn_of(client):
            try:
                return await asyncio.get_running_loop().run_in_executor(self._workers, work, tick)
            finally:
                left.set()

    def close(self) -> None:
        """Begin nothing more."""
        self._workers.shutdown(cancel_futures=True)


class AbandonedError(Exception):
    """Ends work that nobody waits for any more."""
