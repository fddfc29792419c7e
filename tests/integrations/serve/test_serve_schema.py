"""/openapi.json, /health, and web pages of other sites: what is told and let in, and what is not."""

from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from homer_integrations.serve import ServeSettings
from tests.integrations.serve.test_serve_security import asking
from tests.serving import DOCUMENTS_OF_FACT, chat_body

SITE = "http://localhost:3000"
PREFLIGHT = {
    "origin": SITE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


async def schema(**settings: Any) -> dict[str, Any]:
    async with asking(**settings) as client:
        answer = await client.get("/openapi.json")
        assert answer.status_code == 200
        return answer.json()


async def test_the_schema_tells_of_every_route_and_of_every_field() -> None:
    found = await schema()
    assert set(found["paths"]) == {
        "/v1/chat/completions", "/v1/completions", "/v1/rerank", "/v1/compress", "/v1/models", "/v1/models/{name}",
        "/metrics", "/health",
    }  # fmt: skip
    body = found["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = found["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]["properties"]
    assert {"model", "messages", "documents", "stream", "max_completion_tokens", "top_k", "timeout"} <= set(fields)
    assert "prompt" in found["components"]["schemas"]["CompletionRequest"]["properties"]


async def test_every_reference_in_the_schema_leads_somewhere() -> None:
    found = await schema()

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [value["$ref"]] if "$ref" in value else [r for v in value.values() for r in references(v)]
        return [r for v in value for r in references(v)] if isinstance(value, list) else []

    assert references(found)
    for reference in references(found):
        place: Any = found
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


async def test_the_schema_needs_the_key_and_tells_of_no_setting() -> None:
    async with asking(api_key="secret", model="/data/private-model") as client:
        assert (await client.get("/openapi.json")).status_code == 401
        answer = await client.get("/openapi.json", headers={"authorization": "Bearer secret"})
        assert answer.status_code == 200
        assert "secret" not in answer.text
        assert "private-model" not in answer.text
        assert (await client.get("/openapi.json", headers={"host": "evil.example"})).status_code == 421
        for path in ("/docs", "/redoc"):  # pages that load scripts from elsewhere
            assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("path", ["/health", "/healthz"])
async def test_health_is_told_without_a_key(path: str) -> None:
    async with asking(api_key="secret") as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


async def test_no_page_of_another_site_is_let_in_by_default() -> None:
    async with asking() as client:
        preflight = await client.options("/v1/chat/completions", headers=PREFLIGHT)
        assert preflight.status_code == 405
        answer = await client.get("/v1/models", headers={"origin": SITE})
    assert not {name for each in (preflight, answer) for name in each.headers if name.startswith("access-control")}


async def test_a_site_that_is_named_is_let_in_and_no_other() -> None:
    async with asking(allowed_origins=(SITE,), api_key="secret") as client:
        preflight = await client.options("/v1/chat/completions", headers=PREFLIGHT)
        assert preflight.headers["access-control-allow-origin"] == SITE
        assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in preflight.headers
        other = await client.options("/v1/chat/completions", headers=PREFLIGHT | {"origin": "http://evil.example"})
        assert (other.status_code, other.headers.get("access-control-allow-origin")) == (400, None)
        refused = await client.post("/v1/chat/completions", json=chat_body(DOCUMENTS_OF_FACT), headers={"origin": SITE})
        assert refused.status_code == 401  # the key is asked for all the same
        assert refused.headers["access-control-allow-origin"] == SITE  # so that the page can read why
        strange: httpx.Response = await client.options("/v1/models", headers=PREFLIGHT | {"host": "evil.example"})
        assert strange.status_code == 421


@pytest.mark.parametrize("origin", ["localhost:3000", "http://localhost/", "http://a/b", "null", "http://u@h"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        ServeSettings(allowed_origins=(origin,))


def test_origins_may_come_as_one_text() -> None:
    assert ServeSettings(allowed_origins=f"{SITE}, https://chat.example").allowed_origins[1] == "https://chat.example"
