"""What `homer serve` does once its options are read."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from homer import ConfigError
from homer_integrations.serve.pool import settle_garbage, settle_pool
from homer_integrations.serve.server import make_server
from homer_integrations.serve.settings import ServeSettings


def run(given: Mapping[str, Any], host: str, port: int, *, ray: bool = False) -> int:
    """Serve until interrupted.

    Args:
        given: fields of ServeSettings.

    Raises:
        ConfigError: a setting out of range, or a taken port.
        HomerError: the model cannot be loaded.
    """
    settings = _settings(given)
    if host not in ("127.0.0.1", "::1", "localhost") and settings.api_key is None:
        print(f"homer: {host} lets other machines in, and there is no --api-key", file=sys.stderr)
    if "*" in settings.allowed_origins and settings.api_key is None:
        print("homer: --allowed-origins * lets every web page in, and there is no --api-key", file=sys.stderr)
    if ray:
        from homer_integrations.serve.cluster import run_cluster

        run_cluster(settings, host, port)
        return 0
    settle_pool()
    server = make_server(settings, host, port)
    settle_garbage()
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn passes on once it has shut down
        server.run()
    return 0


def _settings(given: Mapping[str, Any]) -> ServeSettings:
    try:
        return ServeSettings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "--" + "-".join(str(first["loc"][0]).split("_"))
        raise ConfigError(f"{name} {first['input']}: {first['msg']}") from None
