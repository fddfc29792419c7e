"""What passes between the web application and a model, in one process or between several."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from homer import Answer, Compressed, Document
from homer_integrations.shared.tools import Wanted


@dataclasses.dataclass(frozen=True)
class Job:
    """One prompt to answer.

    Attributes:
        messages: mappings with role and content.
        documents: those given with the request.
        options: arguments of `HomerSettings.call`.
        timeout: seconds for all of it, the wait included; None: as long as it takes.
        client: who asks, for a fair queue.
        wanted: tools that may be called, and the form of the answer.
        place: the text in the messages where the documents belong; None: before the question.
        n: answers to draw.
        logprobs: how many tokens to tell beside each one; None tells nothing.
    """

    messages: tuple[dict[str, Any], ...]
    documents: tuple[Document, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    timeout: float | None = None
    client: str = ""
    wanted: Wanted = dataclasses.field(default_factory=Wanted)
    place: str | None = None
    n: int = 1
    logprobs: int | None = None

    @property
    def characters(self) -> int:
        """Of all texts."""
        titles = sum(len(document.title or "") for document in self.documents)
        texts = sum(len(document.text) for document in self.documents)
        return titles + texts + sum(len(message["content"]) for message in self.messages)

    @property
    def affinity(self) -> str:
        """A digest of what takes long to read: equal for requests that a process can answer from what it holds."""
        long: list[str] = [document.text for document in self.documents] or [m["content"] for m in self.messages]
        return hashlib.sha256(json.dumps(long).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Accepted:
    """The first event: the request is sound and stands in the queue."""

    prompt_tokens: int


@dataclasses.dataclass(frozen=True)
class Finished:
    """The last event; of several answers one each, in their order.

    Attributes:
        answer: without its trace, which would repeat every document.
        cached_tokens: of the prompt, those that were not computed again.
        cites: whether what the answer rests on was asked for.
        choice: of several answers to one prompt, which it is.
    """

    answer: Answer
    cached_tokens: int
    cites: bool = False
    choice: int = 0


@dataclasses.dataclass(frozen=True)
class CompressJob(Job):
    """Documents to shorten; the one message is the question, and `options` are those of `Compressor.compress`."""

    marker: str = "[...]"


@dataclasses.dataclass(frozen=True)
class Found:
    """The last event of a CompressJob."""

    compressed: Compressed


Event = Accepted | str | Finished | Found


class Backend(Protocol):
    """Whatever answers jobs: an Engine here, or replicas elsewhere."""

    def stream(self, job: Job) -> AsyncGenerator[Event, None]:
        """Accepted, texts (of several answers Pieces), Finished; or Found. Closing it ends the work and frees memory.

        Raises:
            HomerError: see `problem_of`.
        """

    def busyness(self) -> dict[str, float]:
        """Figures of the moment, by name, for /metrics."""
