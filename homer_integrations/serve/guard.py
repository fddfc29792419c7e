"""Guard: what is looked at before a request reaches any endpoint, by what the server itself read of it."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from homer_integrations.serve.errors import Problem, ServeError
from homer_integrations.serve.hosts import Hosts

MAX_HEADER_BYTES = 32 * 2**10  # of all headers together


class Guard:
    """Middleware that answers requests with too much of a header, or for another host, without passing them on."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await JSONResponse(problem.body, problem.status)(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > MAX_HEADER_BYTES:
            return header_too_large()
        given = Headers(scope=scope).getlist("host")  # none at all from HTTP/1.0, which no web page speaks
        wrong = next((host for host in given if not self._hosts.right(host)), None)
        if wrong is None:
            return None
        message = (
            f"this server is not called {wrong!r:.200}, but {self._hosts}: call it so, or start it with "
            f"--allowed-hosts and that name"
        )
        return Problem(421, message, code="unknown_host")


def header_too_large() -> Problem:
    """More of a header than is read."""
    return Problem(431, f"the header is longer than {MAX_HEADER_BYTES} bytes: send less", code="header_too_large")


def check_json(headers: Headers) -> None:
    """Raise ServeError, status 415, unless the body is said to be JSON.

    A web page may send any server a body of another kind, or of none, without asking it first.
    """
    kind, _, details = headers.get("content-type", "").partition(";")
    kind, charset = kind.strip().lower(), details.partition("charset=")[2].strip(' "').lower()
    if kind != "application/json" or charset not in ("", "utf-8", "utf8", "us-ascii"):
        found = headers.get("content-type") or "none"
        message = (
            f"the body's Content-Type is {found!r:.200}: send JSON, and the header 'Content-Type: application/json'"
        )
        raise ServeError(Problem(415, message, code="unsupported_media_type"))
    coding = headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        message = f"the body's Content-Encoding is {coding!r:.200}: send it as it is"
        raise ServeError(Problem(415, message, code="unsupported_media_type"))
