"""On Ray Serve: the same application before any number of copies of the model.

`serve run homer_integrations.serve.cluster:build_app model=mini replicas=2` starts it as well; every field of
ServeSettings is an argument.
"""

from __future__ import annotations

try:
    import ray
    from ray import serve
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: pip install homer-integrations[ray]", name=error.name) from None

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from homer import HomerError, TimeoutExceededError
from homer_integrations.serve.app import create_app
from homer_integrations.serve.engine import Engine
from homer_integrations.serve.errors import Problem, ServeError, problem_of, queue_full
from homer_integrations.serve.jobs import Accepted, Event, Job
from homer_integrations.serve.settings import ServeSettings
from homer_integrations.shared.ray import without_reports

_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_RETRIES = 3
_LOST = (RayActorError, DeploymentUnavailableError)


class Replica:
    """One copy of the model. Errors that were foreseen come as a Problem, which travels without its cause."""

    def __init__(self, settings: ServeSettings) -> None:
        self._engine = Engine(settings.model_copy(update={"max_queue": settings.max_running}))

    async def stream(self, job: Job) -> AsyncGenerator[Event | Problem, None]:
        """The events of Engine.stream; a Problem in place of an error, and the last event."""
        try:
            async with contextlib.aclosing(self._engine.stream(job)) as events:
                async for event in events:
                    yield event
        except HomerError as error:
            yield problem_of(error)


class Replicas:
    """A backend that hands every job to a replica: the one that read the same documents before, where it has room.

    A job whose replica dies before any text came is given to another one; later it fails, and says so.
    """

    def __init__(self, handle: DeploymentHandle[Any], settings: ServeSettings) -> None:
        self._handle, self._settings = handle, settings
        self._streams = 0

    def busyness(self) -> dict[str, float]:
        """Figures of the moment, by name."""
        return {"requests_running": self._streams}

    async def stream(self, job: Job) -> AsyncGenerator[Event, None]:
        """As Engine.stream. Raises ServeError with status 503 where no replica is left."""
        self._streams += 1
        try:
            async with contextlib.aclosing(self._attempts(job)) as events:
                async for event in events:
                    yield event
        finally:
            self._streams -= 1

    async def _attempts(self, job: Job) -> AsyncGenerator[Event, None]:
        """The events of the first replica that is not lost before any text."""
        deadline = None if job.timeout is None else time.monotonic() + job.timeout
        told: set[type] = set()
        for attempt in range(_RETRIES + 1):
            try:
                async with contextlib.aclosing(self._attempt(job, deadline)) as events:
                    async for event in events:
                        if not (isinstance(event, Accepted) and Accepted in told):
                            yield event
                        told.add(str if isinstance(event, str) else type(event))
                return
            except _LOST as error:
                if str in told or attempt == _RETRIES:
                    raise ServeError(_lost(str in told)) from error
                await asyncio.sleep(0.2 * 2**attempt)

    async def _attempt(self, job: Job, deadline: float | None) -> AsyncGenerator[Event, None]:
        handle: Any = self._handle.options(stream=True, session_id=job.affinity)
        response = handle.stream.remote(job)
        try:
            while (event := await _next(response, deadline, job)) is not None:
                if isinstance(event, Problem):
                    raise ServeError(event)
                yield event
        except BackPressureError:
            limit = self._settings.max_queue
            raise queue_full(limit, 1) from None
        finally:
            response.cancel()


async def _next(response: AsyncIterator[Any], deadline: float | None, job: Job) -> Any:
    """The next event; None after the last."""
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        return await asyncio.wait_for(anext(response, None), left)
    except TimeoutError:
        raise TimeoutExceededError(
            f"no whole answer within {job.timeout} seconds, the wait for a replica included: ask for fewer tokens, "
            f"send fewer documents, or start more replicas"
        ) from None


def _lost(in_the_middle: bool) -> Problem:
    when = "in the middle of this answer" if in_the_middle else f"at each of {_RETRIES + 1} attempts"
    return Problem(503, f"the replica was lost {when}: ask again", "server_error", "replica_lost")


def build_app(args: ServeSettings | Mapping[str, Any]) -> serve.Application:
    """The application for `serve run` or `serve.run`: replicas of the model, and the web application before them.

    Args:
        args: fields of ServeSettings; text is read as numbers where numbers belong.
            Where Serve's proxies listen on more than this machine's loopback, allowed_hosts names the cluster.
    """
    return _bind(args if isinstance(args, ServeSettings) else ServeSettings(**args), "127.0.0.1")


def _bind(settings: ServeSettings, host: str) -> serve.Application:
    """The application before whose proxies stands `host`."""
    scaling: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas is not None:
        limits = {"min_replicas": settings.replicas, "max_replicas": settings.max_replicas}
        scaling = {"autoscaling_config": limits | {"target_ongoing_requests": settings.max_running}}
    router = RequestRouterConfig(request_router_class=_ROUTER)  # type: ignore[arg-type]
    model = serve.deployment(
        name="model",
        max_ongoing_requests=2 * settings.max_running,
        max_queued_requests=settings.max_queue,
        ray_actor_options={"num_cpus": settings.cpus_per_replica, "num_gpus": settings.gpus_per_replica},
        request_router_config=router,
        **scaling,
    )(Replica)
    many = settings.max_queue + 2 * settings.max_running * (settings.max_replicas or settings.replicas)
    web = serve.deployment(name="web", max_ongoing_requests=2 * many, ray_actor_options={"num_cpus": 0})(
        serve.ingress()(Web)
    )
    return web.bind(model.bind(settings), settings, host)


class Web:
    """The web application of `create_app`, before replicas."""

    def __init__(self, replicas: DeploymentHandle[Any], settings: ServeSettings, host: str) -> None:
        self._app = create_app(Replicas(replicas, settings), settings, host)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app


def run_cluster(settings: ServeSettings, host: str, port: int) -> None:
    """Start Ray, or join the cluster that RAY_ADDRESS names, and serve until interrupted."""
    start_cluster(settings, host, port)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        serve.shutdown()  # type: ignore[no-untyped-call]


def start_cluster(settings: ServeSettings, host: str, port: int) -> None:
    """Serve from here on; `ray.serve.shutdown()` ends it."""
    without_reports()
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    serve.start(http_options={"host": host, "port": port})
    serve.run(_bind(settings, host))
    print(f"{settings.public_name} is served at http://{host}:{port}/v1", flush=True)
