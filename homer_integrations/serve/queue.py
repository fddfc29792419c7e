"""FairQueue: who may run next, one request of every client in turn."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator


class FairQueue:
    """Lets so many in at a time; of those that wait, one of each client after the other. For one event loop.

    A client with a hundred requests thus holds up a client with one by one request at most, and not by a hundred.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: collections.OrderedDict[str, collections.deque[asyncio.Future[None]]] = collections.OrderedDict()

    @contextlib.asynccontextmanager
    async def turn_of(self, client: str) -> AsyncIterator[None]:
        """Within it one runs, as soon as it is this client's turn."""
        await self._enter(client)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, client: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, collections.deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let in and cancelled at the same moment
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            client, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns  # at the end
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
