"""Serving: an OpenAI-compatible server, on one machine and on Ray Serve. `homer serve` starts it."""

from __future__ import annotations

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import sse_starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: pip install homer-integrations[serve]", name=error.name) from None

from homer_integrations.serve.app import create_app
from homer_integrations.serve.engine import Engine
from homer_integrations.serve.settings import ServeSettings

__all__ = ["Engine", "ServeSettings", "create_app"]
