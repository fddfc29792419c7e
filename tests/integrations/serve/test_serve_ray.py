"""Two replicas on a local Ray Serve cluster, as `homer serve --ray` starts it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

from tests.serving import DOCUMENTS_OF_FACT, LONG, QUESTION, chat_body, client_of, long_documents, wait_until

pytestmark = pytest.mark.slow  # a cluster takes half a minute to start on two cores


class Cluster:
    def __init__(self, process: subprocess.Popen, url: str) -> None:
        self.process, self.url = process, url

    def replicas(self) -> list[psutil.Process]:
        def title(process: psutil.Process) -> str:
            try:
                return " ".join(process.cmdline())
            except psutil.Error:
                return ""

        family = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in family if "ServeReplica:default:model" in title(process)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = "--ray --replicas 2 --max-running 4 --max-queue 400 --max-tokens 16 --timeout 200 --keep-alive 1"
    command = [sys.executable, "-m", "homer", "serve", "--port", str(port), *options.split()]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        line = process.stdout.readline()
        assert line == f"mini is served at http://127.0.0.1:{port}/v1\n"
        yield Cluster(process, f"http://127.0.0.1:{port}/v1")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(180)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_the_builder_for_serve_run() -> None:
    """`serve run` hands over text, and a field that is misspelt must not be passed over."""
    from ray import serve

    from homer_integrations.serve.cluster import build_app

    assert isinstance(build_app({"model": "mini", "replicas": "2", "max_replicas": "4"}), serve.Application)
    with pytest.raises(ValueError, match="replicsa"):
        build_app({"replicsa": "2"})


@pytest.fixture
def client(cluster: Cluster) -> openai.OpenAI:
    return client_of(cluster.url)


def test_clients_as_they_are(cluster: Cluster, client: openai.OpenAI) -> None:
    more = {"documents": DOCUMENTS_OF_FACT}
    assert [model.id for model in client.models.list()] == ["mini"]
    chunks = client.chat.completions.create(**chat_body(stream=True), extra_body=more)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "48213"
    assert (
        ChatOpenAI(model="mini", base_url=cluster.url, api_key="any", extra_body=more).invoke(QUESTION).text == "48213"
    )
    llm = OpenAILike(model="mini", api_base=cluster.url, api_key="any", is_chat_model=True,
                     additional_kwargs={"extra_body": more})  # fmt: skip
    assert llm.chat([ChatMessage(QUESTION)]).message.content == "48213"
    with pytest.raises(openai.BadRequestError, match="the last message is the assistant's"):
        client.chat.completions.create(model="mini", messages=[{"role": "assistant", "content": "a"}])


def test_the_same_documents_go_to_the_replica_that_read_them(client: openai.OpenAI) -> None:
    asked = [chat_body([{"title": f"note {n}", "text": f"Note {n}. {DOCUMENTS_OF_FACT[0]['text']}"}]) for n in range(8)]
    for cached in (False, True):
        for body in asked:
            documents = {"documents": body["documents"]}
            plain = {name: value for name, value in body.items() if name != "documents"}
            usage = client.chat.completions.create(**plain, extra_body=documents).usage
            assert (usage.prompt_tokens_details.cached_tokens > 0) == cached


async def test_200_clients(cluster: Cluster) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=200, limits=limits) as http:

        async def ask(n: int) -> str:
            body = chat_body([f"Visitor {n} came at noon. {DOCUMENTS_OF_FACT[0]['text']}"], stream=n % 2 == 0)
            answer = await http.post(f"{cluster.url}/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            return "done" if "[DONE]" in answer.text or answer.json()["choices"][0]["message"]["content"] else "empty"

        assert Counter(await asyncio.gather(*map(ask, range(200)))) == {"done": 200}


async def test_a_replica_killed_under_load(cluster: Cluster) -> None:
    """Every request is answered or told what happened, and the cluster is whole again afterwards."""
    wait_until(lambda: len(cluster.replicas()) == 2)
    killed = cluster.replicas()[0]
    async with httpx.AsyncClient(timeout=180) as http:

        async def ask(n: int) -> tuple[int, Any]:
            body = chat_body([{"title": str(n), "text": LONG[1000 * n :][:12_000]}, *DOCUMENTS_OF_FACT])
            answer = await http.post(f"{cluster.url}/chat/completions", json=body)
            return answer.status_code, answer.json()

        tasks = [asyncio.create_task(ask(n)) for n in range(12)]
        await asyncio.sleep(4)
        killed.kill()
        results = await asyncio.gather(*tasks)
    assert all(status == 200 or answer["error"]["code"] == "replica_lost" for status, answer in results), results
    assert sum(status == 200 for status, _ in results) >= 6
    wait_until(lambda: len([p for p in cluster.replicas() if p.pid != killed.pid]) == 2, 90)
    end = time.monotonic() + 60
    while True:
        answer = httpx.post(f"{cluster.url}/chat/completions", json=chat_body(long_documents(3000)), timeout=60)
        if answer.status_code == 200 or time.monotonic() > end:
            break
    assert answer.json()["choices"][0]["message"]["content"] == "48213"


def test_a_client_that_goes_away_frees_its_replica(cluster: Cluster) -> None:
    body = chat_body([f"{n} {LONG}" for n in range(4)], stream=True)  # much more than is read while this looks on
    with httpx.stream("POST", f"{cluster.url}/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()  # kept, since the response is closed with it
        assert ": keep-alive" in lines
        wait_until(lambda: max(_busy(cluster)) > 50, 10)
    wait_until(lambda: max(_busy(cluster)) < 30, 10)


def _busy(cluster: Cluster) -> list[float]:
    """Per cent of a core that each replica uses."""
    return [process.cpu_percent(interval=0.5) for process in cluster.replicas()]
