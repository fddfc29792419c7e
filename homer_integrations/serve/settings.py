"""ServeSettings: the model of a server, and every limit that it keeps."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict, Field

from homer_integrations._settings import HomerSettings


class ServeSettings(HomerSettings):
    """What one server is started with; those of HomerSettings say how the model is loaded and what a call defaults to.

    `timeout` is the most seconds that any request may take, the wait in the queue included; a request may ask for
    fewer.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    timeout: float | None = Field(default=600.0, gt=0)
    served_name: str | None = Field(default=None, description="The name under /v1/models; None: the model's own.")
    api_key: str | None = Field(
        default=None, min_length=1, repr=False, description="Asked of every request but /healthz."
    )

    max_body_bytes: int = Field(default=64 * 2**20, gt=0)
    max_prompt_tokens: int = Field(default=2**20, gt=0, description="Documents and messages, before compression.")
    max_running: int = Field(default=8, gt=0, description="Requests that hold memory at a time, in each process.")
    max_queue: int = Field(default=256, ge=0, description="Requests that wait beyond those; more get status 429.")
    keep_alive: float = Field(default=10.0, gt=0, description="Seconds of silence after which a comment is sent.")

    store_bytes: int = Field(default=2**30, ge=0, description="Compact caches kept for identical requests.")
    store_folder: Path | None = Field(default=None, description="Keep compact caches on disk as well.")
    store_folder_bytes: int = Field(default=10 * 2**30, ge=0)

    states_bytes: int = Field(default=0, ge=0, description="States of documents kept in memory, for any question.")
    states_folder: Path | None = Field(default=None, description="Keep states on disk; they are large.")
    states_folder_bytes: int = Field(default=100 * 2**30, ge=0)

    replicas: int = Field(default=1, gt=0, description="On Ray: copies of the model.")
    max_replicas: int | None = Field(default=None, gt=0, description="On Ray: above `replicas`, add copies by load.")
    gpus_per_replica: float = Field(default=0, ge=0)
    cpus_per_replica: float = Field(default=1, ge=0)

    @property
    def keeps_states(self) -> bool:
        """Whether documents that come again are not read again."""
        return self.reuse is not None or self.states_bytes > 0 or self.states_folder is not None

    @property
    def public_name(self) -> str:
        """What clients call the model."""
        return self.served_name or self.model_name
