"""create_app: the web application, the same for one process and for many."""

from __future__ import annotations

import asyncio
import functools
import hmac
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from homer import HomerError, TimeoutExceededError
from homer_integrations.serve.answering import GONE, Answering, while_there
from homer_integrations.serve.asking import Asking
from homer_integrations.serve.compressing import CompressingRequest, CompressRequest, RerankRequest, found_by
from homer_integrations.serve.errors import Problem, ServeError, problem_of
from homer_integrations.serve.guard import Guard, check_json
from homer_integrations.serve.hosts import Hosts
from homer_integrations.serve.jobs import Backend, Job
from homer_integrations.serve.lanes import Lane
from homer_integrations.serve.limits import check_values, read_body
from homer_integrations.serve.metrics import Metrics
from homer_integrations.serve.protocol import ChatRequest, CompletionRequest, GenerationRequest, parse
from homer_integrations.serve.responses import Shape, model_card, model_list
from homer_integrations.serve.schema import schema_of
from homer_integrations.serve.settings import ServeSettings

_FILES_AT_ONCE = 4
Asked = TypeVar("Asked", bound=Asking)


def create_app(backend: Backend, settings: ServeSettings, host: str = "127.0.0.1") -> FastAPI:
    """The application: /v1/chat/completions, completions, rerank, compress, models; /health, /metrics, /openapi.json.

    Args:
        backend: what answers; an Engine, or replicas on Ray.
        host: the address that it will listen on, by which it may be called beside `settings.allowed_hosts`.
    """
    server = _Server(backend, settings)
    app = FastAPI(
        title="HOMER",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        exception_handlers={HomerError: _refuse, HTTPException: _refuse_http, Exception: _refuse},
    )
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(Guard, hosts=Hosts(host, settings.allowed_hosts))
    guarded = APIRouter(dependencies=[Depends(server.check_key)])  # by route: a path can be written in many ways
    guarded.post("/v1/chat/completions")(server.chat)
    guarded.post("/v1/completions")(server.complete)
    guarded.post("/v1/rerank")(server.rerank)
    for path in ("/v2/rerank", "/rerank"):  # where Cohere's client of today asks, and vLLM's
        guarded.post(path, include_in_schema=False)(server.rerank)
    guarded.post("/v1/compress")(server.compress)
    guarded.get("/v1/models")(server.models)
    guarded.get("/v1/models/{name:path}")(server.model)
    guarded.get("/metrics")(server.measure)
    guarded.get("/openapi.json", include_in_schema=False)(lambda: JSONResponse(schema_of(app)))
    app.include_router(guarded)
    app.get("/health")(server.health)  # for load balancers, which have no key
    app.get("/healthz", include_in_schema=False)(server.health)
    return app


_Respond = Callable[[bytes, str], Coroutine[Any, Any, Response]]  # body and client to a response


class _Server:
    """The endpoints of one application."""

    def __init__(self, backend: Backend, settings: ServeSettings) -> None:
        self._backend, self._settings, self._since = backend, settings, int(time.time())
        self._metrics = Metrics(backend)
        self._parsing, self._files = Lane("homer-parsing"), Lane("homer-files", _FILES_AT_ONCE)

    async def chat(self, request: Request) -> Response:
        """/v1/chat/completions."""
        return await self._counted("chat", self._answer(request, ChatRequest))

    async def complete(self, request: Request) -> Response:
        """/v1/completions."""
        return await self._counted("completions", self._answer(request, CompletionRequest))

    async def rerank(self, request: Request) -> Response:
        """/v1/rerank."""
        return await self._counted("rerank", self._find(request, RerankRequest))

    async def compress(self, request: Request) -> Response:
        """/v1/compress."""
        return await self._counted("compress", self._find(request, CompressRequest))

    async def models(self) -> JSONResponse:
        """/v1/models: the one that is served."""
        return JSONResponse(model_list(self._settings.public_name, self._settings.max_prompt_tokens, self._since))

    async def model(self, name: str) -> JSONResponse:
        """/v1/models/NAME."""
        self._check_model(name)
        return JSONResponse(model_card(name, self._settings.max_prompt_tokens, self._since))

    async def health(self) -> JSONResponse:
        """Figures of the moment; without a key."""
        return JSONResponse({"status": "ok", **self._backend.busyness()})

    async def measure(self) -> Response:
        """What Prometheus reads."""
        return Response(self._metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def check_key(self, request: Request) -> None:
        """Raise ServeError, status 401, without the key where one is asked for."""
        key = self._settings.api_key
        if key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1"), key.encode())  # as bytes, as they came
        if scheme.lower() != "bearer" or not same:
            message = "this server asks for an API key: send the header 'Authorization: Bearer KEY' with its key"
            raise ServeError(Problem(401, message, "authentication_error", "invalid_api_key"))

    async def _served(
        self, request: Request, respond: Callable[[bytes, str], Coroutine[Any, Any, Response]]
    ) -> Response:
        """What `respond` makes of the body and the client, while that is still there."""
        check_json(request.headers)
        body = await self._read(request)
        return await while_there(request, respond(body, request.client.host if request.client else ""))

    async def _answer(self, request: Request, kind: type[GenerationRequest]) -> Response:
        return await self._served(request, functools.partial(self._respond, kind))

    async def _respond(self, kind: type[GenerationRequest], body: bytes, client: str) -> Response:
        asked = await self._parsing.run(client, lambda _: self._parse(kind, body))
        lane = self._files if asked.has_files else self._parsing
        jobs = await self._in_time(lane.run(client, functools.partial(asked.jobs, self._settings, client)))
        answering = Answering(
            self._backend, self._metrics, jobs, Shape(kind is ChatRequest, asked.model, jobs[0].wanted.calls)
        )
        if asked.stream:
            return await answering.stream(self._settings.keep_alive, asked.wants_usage)
        return JSONResponse(await answering.whole())

    async def _find(self, request: Request, kind: type[CompressingRequest]) -> Response:
        return await self._served(request, functools.partial(self._found, kind))

    async def _found(self, kind: type[CompressingRequest], body: bytes, client: str) -> Response:
        asked = await self._parsing.run(client, lambda _: self._parse(kind, body))
        found = await found_by(self._backend, asked.job(self._settings, client))
        return JSONResponse(asked.response(found))

    def _parse(self, kind: type[Asked], body: bytes) -> Asked:
        check_values(body, self._settings.max_values)
        asked = parse(kind, body)
        self._check_model(asked.model)
        return asked

    async def _in_time(self, reading: Awaitable[list[Job]]) -> list[Job]:
        seconds = self._settings.timeout
        try:
            return await asyncio.wait_for(reading, seconds)
        except TimeoutError:
            message = f"the files were not read within {seconds} seconds: send fewer, or their text"
            raise TimeoutExceededError(message) from None

    async def _read(self, request: Request) -> bytes:
        """The body. Raises ServeError where it is too long, or does not come."""
        seconds = self._settings.timeout
        try:
            return await asyncio.wait_for(read_body(request.stream(), self._settings.max_body_bytes), seconds)
        except TimeoutError:
            message = f"the body did not come within {seconds} seconds: send it faster, or fewer documents"
            raise ServeError(Problem(408, message, "timeout_error", "timeout")) from None
        except ClientDisconnect:
            raise ServeError(GONE) from None

    async def _counted(self, endpoint: str, response: Awaitable[Response]) -> Response:
        try:
            answered = await response
        except Exception as error:
            problem = problem_of(error)
            self._metrics.requests.labels(endpoint, problem.status).inc()
            raise ServeError(problem) from error
        self._metrics.requests.labels(endpoint, answered.status_code).inc()
        return answered

    def _check_model(self, name: str) -> None:
        served = self._settings.public_name
        if name != served:
            message = f"there is no model {name!r:.200} here: this server has {served!r}"
            raise ServeError(Problem(404, message, code="model_not_found", param="model"))


async def _refuse(_: Request, error: Exception) -> Response:
    problem = problem_of(error)
    return JSONResponse(problem.body, problem.status, problem.headers)


async def _refuse_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(Problem(error.status_code, str(error.detail)).body, error.status_code, error.headers)
