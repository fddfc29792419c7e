"""The server on this machine: unmodified clients, its limits, and clients that behave badly."""

import asyncio
import base64
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

from homer import HomerModel
from homer.cli import main
from homer.merging.chunk import Chunk
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.server import Server
from tests.serving import (
    DOCUMENTS_OF_FACT,
    LONG,
    QUESTION,
    chat_body,
    client_of,
    long_documents,
    pdf_of,
    running,
    wait_until,
)

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(mini: HomerModel) -> Iterator[Server]:
    settings = ServeSettings(
        model=mini, served_name="mini", max_running=2, max_queue=2, max_body_bytes=2**20, max_prompt_tokens=25_000,
        keep_alive=0.2, max_tokens=32, timeout=300, store_bytes=64 * 2**20,
    )  # fmt: skip
    with running(settings) as started:
        yield started


@pytest.fixture(autouse=True)
def _nothing_is_left_running(server: Server) -> Iterator[None]:
    yield
    wait_until(lambda: server.engine.busyness()["requests_running"] == 0)
    assert server.engine.busyness()["requests_waiting"] == 0


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return client_of(server.url)


def post(server: Server, body: Any, path: str = "chat/completions", **options: Any) -> httpx.Response:
    options = {"json": body} | options if not isinstance(body, bytes) else {"content": body, "headers": JSON} | options
    return httpx.post(f"{server.url}/{path}", timeout=120, **options)


def metric(server: Server, name: str) -> float:
    text = httpx.get(server.url.replace("/v1", "/metrics")).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_openai(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mini"]
    assert client.models.retrieve("mini").id == "mini"
    documents = long_documents(12_000)
    asked = {"model": "mini", "messages": [{"role": "user", "content": QUESTION}], "max_completion_tokens": 16}
    first = client.chat.completions.create(**asked, extra_body={"documents": documents})
    assert first.choices[0].message.content == "48213"
    assert first.choices[0].finish_reason == "stop"
    assert first.usage.prompt_tokens > 2000
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert first.homer["kept_tokens"] <= 512
    assert {source["title"] for source in first.homer["sources"]} == {"other.txt", "doors.txt"}
    assert sum(passage["kept"] for passage in first.homer["sources"][0]["passages"]) > 0
    again = client.chat.completions.create(**asked, extra_body={"documents": documents})
    assert again.choices[0].message.content == "48213"
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens


def test_openai_streams(client: openai.OpenAI) -> None:
    asked = chat_body(stream=True, stream_options={"include_usage": True})
    chunks = list(client.chat.completions.create(**asked, extra_body={"documents": DOCUMENTS_OF_FACT}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "48213"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].homer["kept_tokens"] == chunks[-1].usage.prompt_tokens
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_documents_that_come_again_are_not_read_again(mini: HomerModel) -> None:
    documents = long_documents(8000)
    with running(ServeSettings(model=mini, served_name="mini", states_bytes=2**30, store_bytes=0)) as keeping:
        first = post(keeping, chat_body(documents, question="What is said of leave?")).json()
        second = post(keeping, chat_body(documents)).json()
        other = post(keeping, chat_body([LONG[9000:17_000]])).json()
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0.9 * second["usage"]["prompt_tokens"]
    assert second["choices"][0]["message"]["content"] == "48213"
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_an_over_long_message_is_split(client: openai.OpenAI) -> None:
    content = f"{LONG[:6000]}\n\nThe door code for the northern archive is 48213.\n\n{LONG[6000:9000]}\n{QUESTION}"
    answer = client.chat.completions.create(model="mini", messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "48213"
    assert answer.homer["kept_tokens"] <= 512 < answer.usage.prompt_tokens


def test_files_are_documents(client: openai.OpenAI) -> None:
    data = base64.b64encode(DOCUMENTS_OF_FACT[0]["text"].encode()).decode()
    part = {"type": "file", "file": {"filename": "doors.txt", "file_data": f"data:text/plain;base64,{data}"}}
    content = [part, {"type": "text", "text": QUESTION}]
    answer = client.chat.completions.create(model="mini", messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "48213"
    assert answer.homer["sources"][0]["title"] == "doors.txt"


def test_completions(client: openai.OpenAI) -> None:
    documents = {"documents": DOCUMENTS_OF_FACT}
    answer = client.completions.create(model="mini", prompt=[QUESTION, QUESTION], max_tokens=16, extra_body=documents)
    assert [choice.text for choice in answer.choices] == ["48213", "48213"]
    assert len(answer.homer["choices"]) == 2
    pieces: dict[int, str] = {0: "", 1: ""}
    for chunk in client.completions.create(model="mini", prompt=[QUESTION] * 2, stream=True, extra_body=documents):
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == {0: "48213", 1: "48213"}


def test_sampling_stop_and_limits(client: openai.OpenAI) -> None:
    def ask(**options: Any) -> Any:
        return client.chat.completions.create(**chat_body() | options, extra_body={"documents": DOCUMENTS_OF_FACT})

    assert ask(stop="8").choices[0].message.content == "4"
    cut = ask(max_tokens=2)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 2)
    texts = {ask(temperature=2.0, seed=7, top_p=0.99).choices[0].message.content for _ in range(2)}
    assert len(texts) == 1


async def test_openai_async(server: Server) -> None:
    client = openai.AsyncOpenAI(base_url=server.url, api_key="any", max_retries=0)
    bodies = [chat_body(question=QUESTION, max_tokens=8 + n) for n in range(4)]
    answers = await asyncio.gather(
        *(client.chat.completions.create(**body, extra_body={"documents": DOCUMENTS_OF_FACT}) for body in bodies)
    )
    assert [answer.choices[0].message.content for answer in answers] == ["48213"] * 4


def test_langchain(server: Server) -> None:
    llm = ChatOpenAI(model="mini", base_url=server.url, api_key="any", extra_body={"documents": DOCUMENTS_OF_FACT})
    message = llm.invoke([("system", "Answer briefly."), ("human", QUESTION)])
    assert message.text == "48213"
    assert message.usage_metadata["input_tokens"] > 0
    pieces = list(llm.stream(QUESTION, stream_usage=True))
    assert "".join(piece.text for piece in pieces) == "48213"
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) > 0


async def test_llama_index(server: Server) -> None:
    settings = {"model": "mini", "api_base": server.url, "api_key": "any", "max_tokens": 16}
    more = {"additional_kwargs": {"extra_body": {"documents": DOCUMENTS_OF_FACT}}}
    chat = OpenAILike(**settings, **more, is_chat_model=True)
    assert chat.chat([ChatMessage(QUESTION)]).message.content == "48213"
    assert list(chat.stream_chat([ChatMessage(QUESTION)]))[-1].message.content == "48213"
    assert (await chat.achat([ChatMessage(QUESTION)])).message.content == "48213"
    plain = OpenAILike(**settings, **more, is_chat_model=False)
    assert plain.complete(QUESTION).text == "48213"


def test_errors_are_openais(client: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.chat.completions.create(**chat_body() | {"model": "other"})
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.BadRequestError, match="the last message is the assistant's"):
        client.chat.completions.create(model="mini", messages=[{"role": "assistant", "content": "a"}])
    with pytest.raises(openai.BadRequestError, match="beyond what the model's window of 1024 leaves") as found:
        client.chat.completions.create(**chat_body(max_tokens=100_000), extra_body={"documents": DOCUMENTS_OF_FACT})
    assert found.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="document 1"):
        client.chat.completions.create(**chat_body(), extra_body={"documents": [{"title": "no text"}]}, stream=True)
    assert httpx.get(f"{server.url}/none").json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{server.url}/chat/completions").status_code == 405


def test_too_long_a_prompt_and_too_long_a_body(client: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="this server takes 25000") as found:
        client.chat.completions.create(**chat_body(), extra_body={"documents": [LONG + LONG[:40_000]]})
    assert found.value.code == "context_length_exceeded"
    assert post(server, chat_body(["x" * 2**20])).status_code == 413
    chunks = (b" " * 2**16 for _ in range(32))  # no length is told before
    assert httpx.post(f"{server.url}/chat/completions", content=chunks, headers=JSON, timeout=60).status_code == 413


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 1000, b"{" * 5000, b'"' + b"a" * 5000, b"null", b"\xff\xfe{}", b'{"model": 1e999}']
)
def test_garbage(server: Server, content: bytes) -> None:
    for path in ("chat/completions", "completions"):
        answer = post(server, content, path)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]


NAN = b'{"model": "mini", "messages": [{"role": "user", "content": "Why?"}], "documents": [%s]}'


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (chat_body(temperature=1e-38), 400),
        (chat_body(temperature=5e-324, seed=1, stream=True), 400),
        (chat_body(repetition_penalty=1e-40), 400),
        (chat_body(repetition_penalty=1e300), 400),
        (chat_body([{"text": "a", "metadata": "s"}]), 400),
        (chat_body([{"text": "a", "metadata": ["s"]}]), 400),
        (chat_body(metadata="s"), 200),
        (chat_body(metadata=["s"], chat_id="c", user={"id": 3}, temperature=1e-4), 200),
        (NAN % b'{"text": "So.", "title": NaN}', 200),
        (NAN % b'{"data": {"text": "So.", "title": NaN}, "id": NaN}', 200),
        (NAN % b'{"text": "So.", "title": "\\ud800"}', 400),
    ],
    ids=str,
)
def test_what_is_asked_wrongly_is_no_failure(server: Server, content: Any, status: int) -> None:
    answer = post(server, content)
    assert answer.status_code == status
    assert answer.json()


@pytest.mark.parametrize("cut", [10, 60, 200, 400])
def test_damaged_pdfs_are_no_failure(server: Server, cut: int) -> None:
    pdf = pdf_of("a text")
    for damaged in (pdf[:cut], pdf[:cut] + b"\xff" + pdf[cut + 1 :], pdf[:cut] + pdf[cut + 20 :]):
        data = "data:application/pdf;base64," + base64.b64encode(damaged).decode()
        part = {"type": "file", "file": {"filename": "a.pdf", "file_data": data}}
        content = [part, {"type": "text", "text": "Why?"}]
        assert post(server, chat_body(question=content, max_tokens=1)).status_code in (200, 400)


def test_the_key(mini: HomerModel) -> None:
    with running(ServeSettings(model=mini, served_name="mini", api_key="secret")) as guarded:
        for key in ("wrong", "sécret".encode().decode("latin-1")):
            answer = httpx.get(f"{guarded.url}/models", headers=[(b"authorization", f"Bearer {key}".encode("latin-1"))])
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert post(guarded, chat_body()).status_code == 401
        assert httpx.get(guarded.url.replace("/v1", "/healthz")).status_code == 200
        assert [model.id for model in openai.OpenAI(base_url=guarded.url, api_key="secret").models.list()] == ["mini"]


def test_a_full_queue_says_when_to_come_back(server: Server) -> None:
    body = chat_body([LONG], stream=True)
    with httpx.Client(timeout=60) as client:
        streams = [client.stream("POST", f"{server.url}/chat/completions", json=body) for _ in range(4)]
        opened = [stream.__enter__() for stream in streams]
        assert [answer.status_code for answer in opened] == [200] * 4
        refused = post(server, chat_body(DOCUMENTS_OF_FACT))
        for stream in streams:
            stream.__exit__(None, None, None)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_silence_is_filled_and_a_client_that_goes_away_frees_everything(server: Server) -> None:
    before = metric(server, "homer_cancelled_total")
    lines = []
    with httpx.stream("POST", f"{server.url}/chat/completions", json=chat_body([LONG], stream=True)) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if lines.count(": keep-alive") == 2:
                break
    assert lines[0].startswith("data: ")
    _check_freed(server)
    assert metric(server, "homer_cancelled_total") == before + 1


def test_a_client_that_hangs_up_on_a_whole_answer_frees_everything(server: Server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/chat/completions", json=chat_body([LONG]), timeout=httpx.Timeout(30, read=1))
    _check_freed(server)


def _check_freed(server: Server) -> None:
    def chunks() -> int:
        gc.collect()
        return sum(isinstance(thing, Chunk) for thing in gc.get_objects())

    wait_until(lambda: server.engine.busyness()["requests_running"] == 0, 4)
    wait_until(lambda: chunks() == 0, 5)


def test_a_request_has_its_time(client: openai.OpenAI, server: Server) -> None:
    start = time.monotonic()
    with pytest.raises(openai.APIStatusError, match=r"no whole answer within 0\.5 seconds") as found:
        client.chat.completions.create(**chat_body(), extra_body={"documents": [LONG], "timeout": 0.5})
    assert found.value.status_code == 504
    assert found.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError, match="no whole answer within"):
        list(client.chat.completions.create(**chat_body(stream=True), extra_body={"documents": [LONG], "timeout": 1}))
    assert time.monotonic() - start < 15


def test_half_closed_and_broken_connections(server: Server) -> None:
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    content = json.dumps(chat_body([LONG], stream=True)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head = f"{head}Content-Length: {len(content)}\r\n\r\n".encode()
    for sent in (head[:40], head, head + content[:100], head + content):
        with socket.create_connection((host, port)) as broken:
            broken.sendall(sent)
            broken.shutdown(socket.SHUT_WR)
            time.sleep(0.1)
    assert post(server, chat_body(DOCUMENTS_OF_FACT)).json()["choices"][0]["message"]["content"] == "48213"


def test_a_body_that_does_not_come(mini: HomerModel) -> None:
    with running(ServeSettings(model=mini, served_name="mini", timeout=0.5)) as impatient:
        host, port = impatient.servers[0].sockets[0].getsockname()[:2]
        with socket.create_connection((host, port)) as slow:
            kind = b"Content-Type: application/json\r\n"
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n" + kind + b"\r\n{")
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_long_prompt_holds_up_nobody(server: Server) -> None:
    """A short request that comes later ends long before, and its tokens come between the nodes of the long one."""
    ends: dict[str, float] = {}

    def ask(name: str, body: dict[str, Any]) -> None:
        assert post(server, body).status_code == 200
        ends[name] = time.monotonic()

    start = time.monotonic()
    long = threading.Thread(target=ask, args=("long", chat_body([LONG[:40_000]], max_tokens=4)))
    long.start()
    wait_until(lambda: server.engine.busyness()["requests_running"] == 1)
    ask("short", chat_body(DOCUMENTS_OF_FACT, question="What is the door code?", max_tokens=4))
    long.join()
    assert ends["short"] - start < 0.6 * (ends["long"] - start)


def test_metrics(server: Server) -> None:
    before = {name: metric(server, f"homer_{name}_total") for name in ("prompt_tokens", "generated_tokens", "requests")}
    usage = post(server, chat_body(DOCUMENTS_OF_FACT)).json()["usage"]
    assert post(server, b"?").status_code == 400
    assert metric(server, "homer_prompt_tokens_total") == before["prompt_tokens"] + usage["prompt_tokens"]
    assert metric(server, "homer_generated_tokens_total") == before["generated_tokens"] + usage["completion_tokens"]
    assert metric(server, "homer_requests_total") == before["requests"] + 2
    assert metric(server, 'homer_requests_total{endpoint="chat",status="400"}') >= 1


def test_the_command(tmp_path: Path) -> None:
    """As users start it: it says where it is, keeps its key and its caches, and ends when it is told to."""
    options = ["--port", "0", "--max-tokens", "16", "--store-folder", str(tmp_path / "caches")]
    command = [sys.executable, "-m", "homer", "serve", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"HOMER_API_KEY": "k"})
    try:
        line = process.stdout.readline()
        assert line.startswith("mini is served at http://127.0.0.1:")
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=line.split()[-1], api_key="other").models.list()
        client = openai.OpenAI(base_url=line.split()[-1], api_key="k")
        answer = client.chat.completions.create(**chat_body(), extra_body={"documents": DOCUMENTS_OF_FACT})
        assert answer.choices[0].message.content == "48213"
        assert len(list((tmp_path / "caches").glob("*.safetensors"))) == 1
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_what_a_server_cannot_be_started_with(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    taken = str(server.servers[0].sockets[0].getsockname()[1])
    for options, words in (
        (["--max-running", "0"], "--max-running 0: Input should be greater than 0"),
        (["--port", taken], f"cannot listen on 127.0.0.1:{taken}"),
        (["--model", "no/such", "--port", "0"], "cannot load"),
    ):
        assert main(["serve", *options]) == 2
        assert words in capsys.readouterr().err
