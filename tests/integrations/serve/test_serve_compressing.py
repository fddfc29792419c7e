"""/v1/rerank and /v1/compress: the shapes that clients know, limits, and what is refused."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from homer import Compressor, HomerModel
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.compressing import CompressRequest, RerankRequest
from homer_integrations.serve.looking import Looking
from homer_integrations.serve.server import Server
from tests.serving import running, wait_until

QUERY = "What is the door code?"
TEXTS = ["The house is old. The door code is 48213.", "It rained all day.", "- buy oil\n- paint the fence"]


@pytest.fixture(scope="module")
def server(small: HomerModel) -> Iterator[Server]:
    settings = ServeSettings(
        model=small, served_name="small", max_prompt_tokens=20_000, max_documents=300, max_queue=1, max_running=1
    )
    with running(settings) as started:
        yield started


def post(server: Server, path: str, **body: Any) -> httpx.Response:
    given = {"model": "small", "query": QUERY, "documents": TEXTS} | body
    return httpx.post(f"{server.url}/{path}", json=given, timeout=60)


def test_documents_are_ranked(server: Server, small: HomerModel) -> None:
    scores = Compressor(small).score(QUERY, TEXTS)
    answer = post(server, "rerank").json()
    assert set(answer) == {"id", "model", "results", "usage"}
    assert answer["model"] == "small"
    order = sorted(range(3), key=lambda index: -scores[index])
    assert [result["index"] for result in answer["results"]] == order
    assert [result["relevance_score"] for result in answer["results"]] == [scores[index] for index in order]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 20
    assert "document" not in answer["results"][0]


def test_the_first_of_them_with_their_texts(server: Server) -> None:
    documents = [{"text": TEXTS[0]}, {"title": "Rain", "text": TEXTS[1]}, TEXTS[2]]
    results = post(server, "rerank", documents=documents, top_n=2, return_documents=True).json()["results"]
    assert len(results) == 2
    for result in results:
        assert result["document"]["text"] == TEXTS[result["index"]]
        assert result["document"].get("title") == ("Rain" if result["index"] == 1 else None)


def test_documents_are_shortened(server: Server, small: HomerModel) -> None:
    expected = Compressor(small, marker="--").compress(QUERY, TEXTS, max_tokens=20)
    answer = post(server, "compress", max_tokens=20, marker="--").json()
    assert answer["text"] == expected.text
    assert [document["index"] for document in answer["documents"]] == list(expected.indices)
    for document in answer["documents"]:
        for start, end in document["spans"]:
            assert TEXTS[document["index"]][start:end] in document["text"]
        assert document["relevance_score"] == expected.scores[document["index"]]
    assert answer["usage"]["kept_tokens"] == expected.usage.kept_tokens <= 20
    assert post(server, "compress", top_k=1, keep="documents").json()["documents"][0]["text"] in TEXTS


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_clients_ask_at_several_addresses_and_say_what_they_leave_open(server: Server, path: str) -> None:
    """Cohere's client of today asks at /v2, LangChain's through it with a null; vLLM takes all three."""
    body = {"model": "small", "query": QUERY, "documents": TEXTS, "top_n": 2, "max_tokens_per_doc": None}
    answer = httpx.post(server.url.removesuffix("/v1") + path, json=body, timeout=60)
    assert answer.status_code == 200
    assert [set(result) for result in answer.json()["results"]] == [{"index", "relevance_score"}] * 2


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("compress", {}, "0 budgets are given: give exactly 1"),
        ("compress", {"max_tokens": 5, "top_k": 1}, "2 budgets are given"),
        ("compress", {"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ("rerank", {"documents": []}, "documents: List should have at least 1 item"),
        ("rerank", {"documents": [7]}, "document 1 is a int"),
        ("rerank", {"documents": [" "]}, "of 1 documents, 0 hold text"),
        ("rerank", {"query": ""}, "the question is empty"),
        ("rerank", {"max_tokens_per_doc": 5}, "max_tokens_per_doc=5 is not supported by this server: leave it out"),
        ("rerank", {"documents": ["a"] * 301}, "the request holds 301 documents, and this server takes 300"),
        ("rerank", {"documents": ["a " * 90_000]}, "this server takes 160000 at most"),
    ],
)
def test_what_is_refused(server: Server, path: str, body: dict[str, Any], message: str) -> None:
    answer = post(server, path, **body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_another_model_and_the_time(server: Server) -> None:
    assert post(server, "rerank", model="other").status_code == 404
    late = post(server, "rerank", documents=["It rained all day. " * 500], timeout=0.01)
    assert late.status_code == 504
    assert "not done within 0.01 seconds" in late.json()["error"]["message"]


def test_chats_and_rankings_share_the_model(server: Server) -> None:
    answers: list[int] = []
    body = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    chat = lambda: answers.append(httpx.post(f"{server.url}/chat/completions", json=body, timeout=60).status_code)  # noqa: E731
    thread = threading.Thread(target=chat)
    thread.start()
    assert post(server, "rerank", documents=["It rained all day. " * 100] * 3).status_code == 200
    thread.join(60)
    assert answers == [200]
    wait_until(lambda: server.engine.busyness()["requests_running"] == 0)
    assert 'endpoint="rerank"' in httpx.get(f"{server.url.removesuffix('/v1')}/metrics").text


def test_requests_know_their_budget() -> None:
    both = {"model": "small", "query": "?", "documents": ["a", "b"]}
    assert RerankRequest(**both).budget() == {"top_k": 2, "keep": "documents"}
    asked = CompressRequest.model_validate_json(json.dumps(both | {"max_share": 0.5}))
    assert asked.budget()["max_share"] == 0.5
    assert Looking.stream.__doc__
