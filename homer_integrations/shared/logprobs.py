"""Log-probabilities as OpenAI's endpoints ask for them and tell them, which LangChain took over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homer import Answer, GenerationError, Piece, TokenLogprob

MOST_ALTERNATIVES = 20


def read_logprobs(logprobs: Any, top_logprobs: Any) -> int | None:
    """How many tokens are to be told beside each one; None where nothing is asked for.

    Raises:
        GenerationError: no bool, no number from 0 to 20, or a number without logprobs=True.
    """
    if logprobs is not None and not isinstance(logprobs, bool):
        raise GenerationError(f"logprobs={logprobs!r} is no bool: give True, and a number as top_logprobs")
    whole = isinstance(top_logprobs, int) and not isinstance(top_logprobs, bool)
    if top_logprobs is not None and not (whole and 0 <= top_logprobs <= MOST_ALTERNATIVES):
        raise GenerationError(f"top_logprobs={top_logprobs!r} is no number from 0 to {MOST_ALTERNATIVES}: give one")
    if top_logprobs and not logprobs:
        raise GenerationError(f"top_logprobs={top_logprobs} needs logprobs=True: give it, or leave both out")
    return top_logprobs or 0 if logprobs else None


def chat_logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """The `logprobs` of a choice in a conversation; None where they were not asked for."""
    if tokens is None:
        return None
    told = [_entry(token) | {"top_logprobs": [_entry(other) for other in token.top]} for token in tokens]
    return {"content": told, "refusal": None}


class Untold:
    """Tokens that came with pieces of a text, until they are told with a chunk: a piece may give none, or several."""

    def __init__(self) -> None:
        self._held: list[TokenLogprob] = []
        self._noted = 0

    def note(self, piece: str) -> None:
        """A piece, and the tokens that came with it."""
        self._add(piece.logprobs if isinstance(piece, Piece) else ())

    def rest(self, answer: Answer) -> None:
        """The whole answer: what of it did not come with a piece is for the last chunk."""
        self._add((answer.logprobs or ())[self._noted :])

    def take(self) -> list[TokenLogprob]:
        """Those for the next chunk."""
        taken, self._held = self._held, []
        return taken

    def _add(self, tokens: Sequence[TokenLogprob]) -> None:
        self._held += tokens
        self._noted += len(tokens)


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}
