"""Citations over HTTP, and documents that a chat page wrote into a message: the request shapes of Open WebUI."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from homer import Answer, Citation, Cited, Document, HomerModel, Usage
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.citing import annotations_of
from homer_integrations.serve.jobs import Finished
from homer_integrations.serve.server import Server
from homer_integrations.serve.tagged import with_tagged
from homer_integrations.shared.marks import PLACE
from tests.serving import client_of, running

KEY = "sk-page"
TEXTS = ["The house is old. Nobody lives there.", "Doors are green. The door code is 48213. Ask for keys."]
SOURCES = "".join(f'<source id="{n}" name="{n} & co.pdf">{text}</source>\n' for n, text in enumerate(TEXTS, 1))
WRITTEN = f"### Task:\nUse the context.\n\n<context>\n{SOURCES}</context>\n\nWhat is the door code?"
QUESTION = {"role": "user", "content": "What is the door code?"}


@pytest.fixture(scope="module")
def server(small: HomerModel) -> Iterator[Server]:
    with running(ServeSettings(model=small, served_name="small", api_key=KEY, max_tokens=12)) as started:
        yield started


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return client_of(server.url, KEY)


def check(annotations: list[Any], text: str, texts: list[str] = TEXTS) -> None:
    assert annotations
    for annotation in annotations:
        assert annotation.type == "url_citation"
        cited = annotation.url_citation
        place = cited.document
        assert 0 <= cited.start_index < cited.end_index <= len(text)
        assert texts[place["index"]][place["start"] : place["end"]] == cited.quote
        assert cited.url == f"document:{place['index']}#char={place['start']},{place['end']}"


def test_an_unmodified_client_reads_annotations(client: openai.OpenAI) -> None:
    documents = [{"title": "house", "text": TEXTS[0]}, {"id": "doors", "data": TEXTS[1]}]
    body: Any = {"model": "small", "messages": [QUESTION], "extra_body": {"documents": documents}}
    plain = client.chat.completions.create(**body).choices[0].message
    assert plain.annotations is None
    body["extra_body"]["cite"] = True
    message = client.chat.completions.create(**body).choices[0].message
    assert message.content == plain.content
    check(message.annotations, message.content)
    assert {annotation.url_citation.title for annotation in message.annotations} <= {"house", "doors"}
    *_, last = client.chat.completions.create(**body, stream=True)
    assert last.choices[0].finish_reason
    told = [annotation["url_citation"] for annotation in last.choices[0].delta.annotations]
    assert told == [annotation.url_citation.model_dump() for annotation in message.annotations]


def test_a_web_page_is_cited_by_its_url() -> None:
    def annotation(title: str | None, words: str = "So.") -> Any:
        cited = (Citation(0, 3, (Cited(2, title, 4, 9, "quote", 0.5),)),)
        answer = Answer("So.", (), Usage(1, 1, 1), "stop", citations=cited)
        return annotations_of(Finished(answer, 0, cites=True), words)["annotations"]

    assert annotation("https://a.org/b")[0]["url_citation"]["url"] == "https://a.org/b"
    assert annotation(None)[0]["url_citation"]["title"] == "document 3"
    assert annotation(None, "") == [], "the answer calls a tool"
    assert annotations_of(Finished(Answer("So.", (), Usage(1, 1, 1), "stop"), 0), "So.") == {}


def test_sources_in_a_message_are_documents() -> None:
    messages = ({"role": "system", "content": "Be short."}, {"role": "user", "content": WRITTEN})
    told, documents, place = with_tagged(messages, ())
    assert place == PLACE
    assert [document.text for document in documents] == TEXTS
    assert [document.title for document in documents] == ["1 & co.pdf", "2 & co.pdf"]
    rendered = "".join(document.render() for document in documents)
    assert told[1]["content"].replace(PLACE, rendered) == WRITTEN
    assert told[0] == messages[0]
    assert with_tagged(tuple(reversed(messages)), ())[1] == documents, "in the system's message as well"


@pytest.mark.parametrize(
    "text",
    [
        "no source at all",
        '<source src="a.mp4"></source>',
        '<source id="1">never closed',
        '<source id="1">a</source> and <source id="2">b</source>',
        '<source id="1">says </source> itself</source>',
        '<source id="1">a <source id="2">b</source></source>',
        '<source id="1"> </source>',
    ],
)
def test_what_is_no_run_of_sources_stays_text(text: str) -> None:
    messages = ({"role": "user", "content": f"{text}\nWhy?"},)
    assert with_tagged(messages, ()) == (messages, (), None)


def test_documents_given_elsewhere_come_first() -> None:
    messages, given = ({"role": "user", "content": WRITTEN},), (Document("other"),)
    assert with_tagged(messages, given) == (messages, given, None)


def page(server: Server, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    """As Open WebUI asks: with its key, and headers that say who is there."""
    headers = {"Authorization": f"Bearer {KEY}", "X-OpenWebUI-User-Id": "7", "X-OpenWebUI-Chat-Id": "8"}
    if body is None:
        return httpx.get(f"{server.url}/{path}", headers=headers, timeout=60)
    return httpx.post(f"{server.url}/{path}", headers=headers, json=body, timeout=60)


def test_a_chat_page_lists_the_model(server: Server) -> None:
    listed = page(server, "models").json()
    assert [model["id"] for model in listed["data"]] == ["small"]
    assert httpx.get(f"{server.url}/models", timeout=60).status_code == 401


def test_a_chat_page_asks_about_a_file(server: Server, small: HomerModel) -> None:
    body = {
        "stream": True,
        "model": "small",
        "messages": [{"role": "user", "content": WRITTEN}],
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": 12,
        "frequency_penalty": 0,
        "logit_bias": {},
        "cite": True,  # as a custom parameter of the model
    }
    answer = page(server, "chat/completions", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    *chunks, usage = map(json.loads, lines[:-1])
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    prompt = small.build_chat_prompt([{"role": "user", "content": WRITTEN}])
    assert usage["usage"]["prompt_tokens"] == len(prompt), "the very prompt that the page wrote"
    last = chunks[-1]
    assert [source["title"] for source in sorted(last["homer"]["sources"], key=lambda source: source["index"])] == [
        "1 & co.pdf",
        "2 & co.pdf",
    ]
    annotations = last["choices"][0]["delta"]["annotations"]
    check([openai.types.chat.chat_completion_message.Annotation.construct(**one) for one in annotations], text)


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": [{"role": "user", "content": "### Task:\nGenerate a concise title. <chat_history>USER: hi"}]},
        {"messages": [{"role": "user", "content": "Generate 1-3 broad tags."}], "max_completion_tokens": 20},
        {"messages": [{"role": "user", "content": "Suggest follow-ups."}], "chat_id": "8", "session_id": "9"},
        {"messages": [QUESTION, {"role": "assistant", "content": "48213"}, QUESTION], "seed": 0, "stop": ["\n\n\n"]},
    ],
)
def test_a_chat_page_asks_for_titles_tags_and_more(server: Server, asked: dict[str, Any]) -> None:
    answer = page(server, "chat/completions", {"model": "small", "stream": False} | asked)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize(("field", "value"), [("logit_bias", {"7": -100}), ("frequency_penalty", 1.5)])
def test_a_setting_of_the_page_that_would_do_nothing_is_refused_by_its_name(
    server: Server, field: str, value: Any
) -> None:
    answer = page(server, "chat/completions", {"model": "small", "messages": [QUESTION], field: value})
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]


def test_a_chat_page_reranks(server: Server) -> None:
    body = {"model": "small", "query": QUESTION["content"], "documents": TEXTS, "top_n": len(TEXTS)}
    answer = page(server, "rerank", body).json()
    scores = [one["relevance_score"] for one in sorted(answer["results"], key=lambda one: one["index"])]
    assert len(scores) == len(TEXTS)
    assert all(isinstance(score, float) for score in scores)
