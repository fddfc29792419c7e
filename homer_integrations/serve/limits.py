"""Limits: what a request is refused for before any work is done on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from homer import GenerationError, Prompt
from homer_integrations.serve.errors import Problem, ServeError
from homer_integrations.shared.settings import Call


async def read_body(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """The whole body. Raises ServeError, status 413, as soon as it is longer than the limit."""
    parts, total = [], 0
    async for chunk in chunks:
        parts.append(chunk)
        total += len(chunk)
        if total > limit:
            message = f"the body is longer than {limit} bytes, which is this server's limit: send fewer documents"
            raise ServeError(Problem(413, message, code="body_too_large"))
    return b"".join(parts)


def check_count(name: str, found: int, limit: int) -> None:
    """Raise ServeError, status 400, where there are more messages, documents or prompts than the server takes."""
    if found > limit:
        message = f"the request holds {found} {name}, and this server takes {limit}: send fewer"
        raise ServeError(Problem(400, message, code="too_many", param=name.replace("prompts", "prompt")))


def check_values(body: bytes, limit: int) -> None:
    """Raise ServeError, status 413, where a body may hold so many values that only to read them stops all else.

    Commas are counted, of which every value but one needs one; those of texts count as well, for what it matters.
    """
    found = body.count(b",")
    if found > limit:
        message = f"the body holds {found} values and commas, and this server takes {limit}: send fewer"
        raise ServeError(Problem(413, message, code="body_too_large"))


def check_room(call: Call, prompt: Prompt) -> None:
    """Raise GenerationError now where the window would end before max_new_tokens; later it would cost a compression."""
    wanted, window = call.max_new_tokens or 1, call.model.window
    longest = call.config.max_chunk_len or window // 2
    if min(len(prompt), longest) + wanted > window:
        raise GenerationError(
            f"max_tokens={wanted} is beyond what the model's window of {window} leaves after a compressed prompt of "
            f"up to {longest} tokens: ask for {window - longest} at most"
        )
