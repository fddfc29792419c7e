"""What clients are told when something is wrong: status, and the body that OpenAI's clients read."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from homer import HomerError, TimeoutExceededError

logger = logging.getLogger(__name__)

_NO_RETRY = {"x-should-retry": "false"}  # OpenAI's clients repeat a 5xx by themselves, unless told not to


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why a request failed. It travels between processes, so it holds plain values only.

    Attributes:
        status: of HTTP.
        message: the number found, the limit and the mend.
        kind: OpenAI's `type`.
        code: OpenAI's `code`, where it has one.
        param: the field of the request.
        retry_after: seconds after which to try again.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say whether and when to try again."""
        if self.retry_after is not None:
            return {"Retry-After": str(self.retry_after)}
        return dict(_NO_RETRY) if self.status >= 500 else {}


class ServeError(HomerError):
    """A request that cannot be answered; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def problem_of(error: BaseException) -> Problem:
    """What to tell the client; what nobody foresaw is logged, and not told."""
    if isinstance(error, ServeError):
        return error.problem
    if isinstance(error, TimeoutExceededError):
        return Problem(504, str(error), "timeout_error", "timeout")
    if isinstance(error, HomerError):
        return Problem(400, str(error))
    logger.error("a request failed", exc_info=error)
    return Problem(500, "the server failed at this request; its log says why", "server_error", "internal_error")


def too_long(found: str, limit: str) -> ServeError:
    """A prompt beyond the server's limit."""
    return ServeError(
        Problem(
            400,
            f"the prompt has {found}, documents included, and this server takes {limit}: send fewer documents",
            code="context_length_exceeded",
            param="messages",
        )
    )


def queue_full(waiting: int, retry_after: int) -> ServeError:
    """No room in the queue."""
    message = f"{waiting} requests are running or waiting, which is this server's limit: try again in {retry_after} s"
    return ServeError(Problem(429, message, "rate_limit_error", "queue_full", retry_after=retry_after))
