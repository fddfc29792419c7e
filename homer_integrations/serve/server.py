"""One process: an engine and its application under uvicorn."""

from __future__ import annotations

import socket

import uvicorn

from homer import ConfigError
from homer_integrations.serve.app import create_app
from homer_integrations.serve.connection import Connection
from homer_integrations.serve.engine import Engine
from homer_integrations.serve.guard import MAX_HEADER_BYTES
from homer_integrations.serve.settings import ServeSettings


def make_server(settings: ServeSettings, host: str = "127.0.0.1", port: int = 8000) -> Server:
    """A server that answers as soon as it runs: its model is loaded here.

    Raises:
        HomerError: the model cannot be loaded.
        ConfigError: the port is taken.
    """
    _check_port(host, port)
    engine = Engine(settings)
    app = create_app(engine, settings, host)
    config = uvicorn.Config(
        app,
        host,
        port,
        http=Connection,
        ws="none",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        log_level="warning",
        timeout_graceful_shutdown=30,
    )
    return Server(config, engine)


class Server(uvicorn.Server):
    """Uvicorn with an engine that ends with it."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self.engine = engine

    @property
    def url(self) -> str:
        """The base URL for clients, once it has started."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            print(f"{self.engine.settings.public_name} is served at {self.url}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests end that run."""
        await super().shutdown(sockets)
        self.engine.close()


def _check_port(host: str, port: int) -> None:
    """Now, rather than after a model has been loaded for minutes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from None
