"""Connection: HTTP/1.1 as uvicorn speaks it, with a bound on headers, and errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from homer_integrations.serve.errors import Problem
from homer_integrations.serve.guard import MAX_HEADER_BYTES, header_too_large

HEADER_SECONDS = 20.0  # from the first byte to the last; also for what is still sent after the answer


class Connection(H11Protocol):
    """One client's connection. Who does not send a whole header in time is not waited for.

    It is uvicorn's parser in Python and not its one in C, since only that one bounds what it holds.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a header."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Go on with the request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the rest of the request, or for the next one."""
        super().on_response_complete()
        if self.conn.their_state is not h11.IDLE:  # the next one has its own time, once it begins
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Tell the client that this was no HTTP, where it still listens to an answer."""
        if len(self.conn.trailing_data[0]) > MAX_HEADER_BYTES:
            self._refuse(header_too_large())
        else:
            self._refuse(Problem(400, "this was no HTTP/1.1 request: send one", code="invalid_http"))

    def _watch(self) -> None:
        rest = self.conn.their_state is h11.SEND_BODY and self.conn.our_state in (h11.DONE, h11.MUST_CLOSE)
        if self.conn.their_state is not h11.IDLE and not rest:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._end)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            message = f"the header did not come within {HEADER_SECONDS:g} seconds: send it faster"
            self._refuse(Problem(408, message, "timeout_error", "timeout"))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # its answer has no reader any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            self._answer(problem)
        self.transport.close()

    def _answer(self, problem: Problem) -> None:
        content = json.dumps(problem.body).encode()
        headers: list[Any] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        events = (h11.Response(status_code=problem.status, headers=headers), h11.Data(content), h11.EndOfMessage())
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
