"""Several answers to one prompt, and log-probabilities of their tokens, as LangChain's models of OpenAI have them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, MutableMapping
from typing import Any

from pydantic import Field

from homer import GenerationError
from homer_integrations.langchain.base import HomerRunnable
from homer_integrations.shared.logprobs import read_logprobs
from homer_integrations.shared.settings import Call

MOST_ANSWERS = 8
_NAMES = ("n", "logprobs", "top_logprobs")


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a call asks for beside one answer in words.

    Attributes:
        n: how many answers.
        alternatives: how many tokens to tell beside each one; None tells nothing.
    """

    n: int = 1
    alternatives: int | None = None

    def told(self, call: Call) -> Call:
        """The call with log-probabilities, where they are asked for."""
        if self.alternatives is None:
            return call
        return dataclasses.replace(call, generation=call.generation | {"logprobs": self.alternatives})

    def check_one(self) -> None:
        """Raise GenerationError where several answers would have to be one stream."""
        if self.n > 1:
            raise GenerationError(f"n={self.n}, and a stream is one answer: call generate, or leave n out")


class HomerChoices(HomerRunnable):
    """The settings of it, at construction and per call."""

    n: int = Field(default=1, ge=1, le=MOST_ANSWERS, description="Answers of generate; the prompt is compressed once.")
    logprobs: bool | None = Field(default=None, description="Tell how likely each token was, in response_metadata.")
    top_logprobs: int | None = Field(default=None, description="And so many of the likeliest beside it, 20 at most.")

    def _take_drawn(self, arguments: MutableMapping[str, Any]) -> Drawn:
        """What the arguments of a call ask for, which is taken out of them. Raises GenerationError on what is none."""
        given = {name: arguments.pop(name, None) for name in _NAMES}
        n, *asked = (getattr(self, name) if given[name] is None else given[name] for name in _NAMES)
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST_ANSWERS:
            raise GenerationError(f"n={n!r} is no number from 1 to {MOST_ANSWERS}: give one")
        return Drawn(n, read_logprobs(*asked))

    def _drawn(self, arguments: Mapping[str, Any]) -> Drawn:
        return self._take_drawn(dict(arguments))

    def _key(self, stop: list[str] | None, arguments: Mapping[str, Any]) -> str:
        others = dict(arguments)
        drawn = self._take_drawn(others)
        key = super()._key(stop, others)
        return key if drawn == Drawn() else json.dumps([key, *dataclasses.astuple(drawn)])
