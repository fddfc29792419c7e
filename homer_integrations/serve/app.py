"""create_app: the web application, the same for one process and for many."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from homer import HomerError
from homer_integrations.serve.answering import Answering, while_there
from homer_integrations.serve.errors import Problem, ServeError, problem_of
from homer_integrations.serve.jobs import Backend
from homer_integrations.serve.metrics import Metrics
from homer_integrations.serve.protocol import ChatRequest, CompletionRequest, GenerationRequest, parse, read_body
from homer_integrations.serve.responses import Shape, model_card, model_list
from homer_integrations.serve.settings import ServeSettings

_OPEN = ("/healthz",)  # for load balancers, which have no key


def create_app(backend: Backend, settings: ServeSettings) -> FastAPI:
    """The application: /v1/chat/completions, /v1/completions, /v1/models, /healthz, /metrics.

    Args:
        backend: what answers; an Engine, or replicas on Ray.
    """
    server = _Server(backend, settings)
    app = FastAPI(
        title="HOMER",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(server.check_key)],
        exception_handlers={HomerError: _refuse, HTTPException: _refuse_http, Exception: _refuse},
    )
    app.post("/v1/chat/completions")(server.chat)
    app.post("/v1/completions")(server.complete)
    app.get("/v1/models")(server.models)
    app.get("/v1/models/{name:path}")(server.model)
    app.get("/healthz")(server.health)
    app.get("/metrics")(server.measure)
    return app


class _Server:
    """The endpoints of one application."""

    def __init__(self, backend: Backend, settings: ServeSettings) -> None:
        self._backend, self._settings, self._since = backend, settings, int(time.time())
        self._metrics = Metrics(backend)

    async def chat(self, request: Request) -> Response:
        """/v1/chat/completions."""
        return await self._counted("chat", self._answer(request, ChatRequest))

    async def complete(self, request: Request) -> Response:
        """/v1/completions."""
        return await self._counted("completions", self._answer(request, CompletionRequest))

    async def models(self) -> JSONResponse:
        """/v1/models: the one that is served."""
        return JSONResponse(model_list(self._settings.public_name, self._settings.max_prompt_tokens, self._since))

    async def model(self, name: str) -> JSONResponse:
        """/v1/models/NAME."""
        self._check_model(name)
        return JSONResponse(model_card(name, self._settings.max_prompt_tokens, self._since))

    async def health(self) -> JSONResponse:
        """Figures of the moment; without a key."""
        return JSONResponse({"status": "ok", **self._backend.load()})

    async def measure(self) -> Response:
        """What Prometheus reads."""
        return Response(self._metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def check_key(self, request: Request) -> None:
        """Raise ServeError, status 401, without the key where one is asked for."""
        key = self._settings.api_key
        if key is None or request.url.path in _OPEN:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
            message = "this server asks for an API key: send the header 'Authorization: Bearer KEY' with its key"
            raise ServeError(Problem(401, message, "authentication_error", "invalid_api_key"))

    async def _answer(self, request: Request, kind: type[GenerationRequest]) -> Response:
        asked = parse(kind, await self._read(request))
        self._check_model(asked.model)
        client = request.client.host if request.client else ""
        jobs = await asyncio.to_thread(asked.jobs, self._settings, client)  # files are decoded, which takes a while
        shape = Shape(kind is ChatRequest, asked.model)
        answering = Answering(self._backend, self._metrics, jobs, shape)
        if asked.stream:
            return await answering.stream(self._settings.keep_alive, asked.wants_usage)
        return JSONResponse(await while_there(request, answering.whole()))

    async def _read(self, request: Request) -> bytes:
        """The body. Raises ServeError where it is too long, or does not come."""
        seconds = self._settings.timeout
        try:
            return await asyncio.wait_for(read_body(request.stream(), self._settings.max_body_bytes), seconds)
        except TimeoutError:
            message = f"the body did not come within {seconds} seconds: send it faster, or fewer documents"
            raise ServeError(Problem(408, message, "timeout_error", "timeout")) from None

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
