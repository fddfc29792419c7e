"""What every request says: of which model, by whom, and within what time."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from homer_integrations.serve.settings import ServeSettings


class Asking(BaseModel):
    """The fields that all endpoints with a body take."""

    model: str = Field(description="The name under /v1/models.")
    timeout: float | None = Field(default=None, gt=0, description="Seconds, the wait in the queue included.")
    user: Any = Field(default=None, description="Who asks; clients take turns by it.")

    def asker(self, client: str) -> str:
        """Who asks, by the `user` of the request, or else by an address."""
        return self.user if isinstance(self.user, str) and self.user else client

    def seconds(self, settings: ServeSettings) -> float | None:
        """The time that the request may take."""
        asked = [seconds for seconds in (self.timeout, settings.timeout) if seconds is not None]
        return min(asked) if asked else None
