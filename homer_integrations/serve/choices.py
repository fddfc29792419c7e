"""Several choices to one prompt, and log-probabilities of their tokens: how they are asked for and told."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, model_validator

from homer import GenerationError, TokenLogprob
from homer_integrations.shared.logprobs import MOST_ALTERNATIVES, Untold, chat_logprobs, read_logprobs

MOST_CHOICES = 8


class SeveralChoices(BaseModel):
    """`n` of a request."""

    n: int | None = Field(
        default=None, ge=1, le=MOST_CHOICES, description="Answers to draw; the prompt is compressed once."
    )

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        return self.n or 1


class ChatLogprobs(BaseModel):
    """`logprobs` and `top_logprobs` of a request for a conversation."""

    logprobs: bool | None = Field(default=None, description="Whether to tell how likely each token was.")
    top_logprobs: int | None = Field(
        default=None, ge=0, le=MOST_ALTERNATIVES, description="And so many of the likeliest beside it."
    )

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatLogprobs:
        try:
            read_logprobs(self.logprobs, self.top_logprobs)
        except GenerationError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def alternatives(self) -> int | None:
        """How many tokens to tell beside each one; None where nothing is asked for."""
        return read_logprobs(self.logprobs, self.top_logprobs)


class CompletionLogprobs(BaseModel):
    """`logprobs` of a request for completions."""

    logprobs: bool | int | None = Field(
        default=None, description="Tell how likely each token was, and so many of the likeliest: 0 to 20."
    )

    @model_validator(mode="after")
    def _check_logprobs(self) -> CompletionLogprobs:
        if self.logprobs is True or not 0 <= int(self.logprobs or 0) <= MOST_ALTERNATIVES:
            raise ValueError(f"logprobs={self.logprobs} is no number from 0 to {MOST_ALTERNATIVES}: give one")
        return self

    @property
    def alternatives(self) -> int | None:
        """How many tokens to tell beside each one; None where nothing is asked for."""
        return None if isinstance(self.logprobs, bool) else self.logprobs


class Telling:
    """The log-probabilities of one choice in the shape of its endpoint, for one chunk after the other.

    Args:
        chat: of /v1/chat/completions, else of /v1/completions.
    """

    def __init__(self, chat: bool) -> None:
        self._chat = chat
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._characters = 0
        self.untold = Untold()

    def next(self) -> dict[str, Any] | None:
        """Those of a chunk that goes out now; None where there are none."""
        return self.of(self.untold.take() or None)

    def of(self, tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
        """Those of tokens that go on where the last ones ended."""
        if self._chat or tokens is None:
            return chat_logprobs(tokens)
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{other.token: other.logprob for other in (token, *token.top)} for token in tokens],
            "text_offset": [self._offset(token) for token in tokens],
        }

    def _offset(self, token: TokenLogprob) -> int:
        """Characters of the text before the token; the white space at its head is no part of the text."""
        start = self._characters
        text = self._decoder.decode(bytes(token.bytes))
        self._characters += len(text if start else text.lstrip())
        return start
