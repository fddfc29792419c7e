"""The server's own description, as OpenAPI has it: what it takes and gives. It tells nothing of what was asked."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

import homer_integrations.serve.protocol as protocol
from homer import __version__
from homer_integrations.serve.compressing import CompressRequest, RerankRequest

_BODIES = {
    "/v1/chat/completions": protocol.ChatRequest,
    "/v1/completions": protocol.CompletionRequest,
    "/v1/rerank": RerankRequest,
    "/v1/compress": CompressRequest,
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": ["string", "null"]} for name in ("message", "type", "param", "code")},
        }
    },
}
_STREAMED: dict[str, Any] = {"application/json": {}, "text/event-stream": {}}
_PROBLEMS = {
    "400": "A field that is wrong, or that this server does not know; the message says which.",
    "401": "The key is missing or wrong.",
    "404": "Another model than the one served.",
    "413": "The body is too long, or holds too many values.",
    "429": "The queue is full; Retry-After says when to try again.",
    "504": "No whole answer within the time.",
}


def schema_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description of an application's routes; made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _described(app)
    return app.openapi_schema


def _described(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title="HOMER", version=__version__, routes=app.routes)
    template = "#/components/schemas/{model}"
    models = [(model, "validation") for model in _BODIES.values()]
    _, schemas = models_json_schema(models, ref_template=template)  # type: ignore[arg-type]
    parts = found.setdefault("components", {})
    parts["schemas"] = parts.get("schemas", {}) | schemas["$defs"] | {"Error": _ERROR}
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"key": []}, {}]  # asked for only where the server was started with one
    for path, model in _BODIES.items():
        reference = {"$ref": template.format(model=model.__name__)}
        route = found["paths"][path]["post"]
        route["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
        route["responses"] = {"200": {"description": "The answer, whole or in chunks.", "content": _content(model)}}
        route["responses"] |= {status: _problem(text) for status, text in _PROBLEMS.items()}
    return found


def _content(model: Any) -> dict[str, Any]:
    """What comes back; of a generation also in chunks."""
    return _STREAMED if issubclass(model, protocol.GenerationRequest) else {"application/json": {}}


def _problem(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
