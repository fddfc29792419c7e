"""ServeSettings: the model of a server, and every limit that it keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from homer_integrations.shared.settings import HomerSettings

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")


def _names(given: Any) -> Any:
    """Text with commas, as `serve run` hands it over, as a tuple."""
    return tuple(name.strip() for name in given.split(",") if name.strip()) if isinstance(given, str) else given


def _origins(given: tuple[str, ...]) -> tuple[str, ...]:
    for origin in given:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin: give a scheme, a name and maybe a port, http://localhost:3000")
    return given


class ServeSettings(HomerSettings):
    """What one server is started with; those of HomerSettings say how the model is loaded and what a call defaults to.

    `timeout` is the most seconds that any request may take, the wait in the queue included; a request may ask for
    fewer.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    timeout: float | None = Field(default=600.0, gt=0, description="Most seconds of any request, its wait included.")
    served_name: str | None = Field(default=None, description="The name under /v1/models; None: the model's own.")
    api_key: str | None = Field(
        default=None, min_length=1, repr=False, description="Asked of every request but /health."
    )
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        default=(), description='Names beside its address by which clients call it, or "*" for any; commas between.'
    )
    allowed_origins: Annotated[tuple[str, ...], BeforeValidator(_names), AfterValidator(_origins)] = Field(
        default=(), description='Sites whose web pages may call the server, or "*" for any; commas between.'
    )

    max_body_bytes: int = Field(default=64 * 2**20, gt=0, description="Of one request.")
    max_prompt_tokens: int = Field(default=2**20, gt=0, description="Documents and messages, before compression.")
    max_messages: int = Field(default=1000, gt=0, description="Of one conversation.")
    max_documents: int = Field(default=10_000, gt=0, description="Of one request.")
    max_prompts: int = Field(default=100, gt=0, description="In one request for completions.")
    max_running: int = Field(default=8, gt=0, description="Requests that hold memory at a time, in each process.")
    max_queue: int = Field(default=256, ge=0, description="Requests that wait beyond those; more get status 429.")
    keep_alive: float = Field(default=10.0, gt=0, description="Seconds of silence after which a comment is sent.")

    store_bytes: int = Field(default=2**30, ge=0, description="Compact caches kept for identical requests.")
    store_folder: Path | None = Field(default=None, description="Keep compact caches on disk as well.")
    store_folder_bytes: int = Field(default=10 * 2**30, ge=0, description="Of that folder.")

    states_bytes: int = Field(default=0, ge=0, description="States of documents kept in memory, for any question.")
    states_folder: Path | None = Field(default=None, description="Keep states on disk; they are large.")
    states_folder_bytes: int = Field(default=100 * 2**30, ge=0, description="Of that folder.")

    replicas: int = Field(default=1, gt=0, description="On Ray: copies of the model.")
    max_replicas: int | None = Field(default=None, gt=0, description="On Ray: above `replicas`, more where busy.")
    gpus_per_replica: float = Field(default=0, ge=0, description="On Ray: reserved for each copy.")
    cpus_per_replica: float = Field(default=1, ge=0, description="On Ray: reserved for each copy.")

    @property
    def max_characters(self) -> int:
        """Of one prompt: more than so many cannot be as few tokens as it may hold, and are not even counted."""
        return 8 * self.max_prompt_tokens

    @property
    def max_values(self) -> int:
        """Of one body of JSON: what its texts and all around them may have of commas, one for a token."""
        return self.max_prompt_tokens + 100_000

    @property
    def keeps_states(self) -> bool:
        """Whether documents that come again are not read again."""
        return self.reuse is not None or self.states_bytes > 0 or self.states_folder is not None

    @property
    def public_name(self) -> str:
        """What clients call the model."""
        return self.served_name or self.model_name
