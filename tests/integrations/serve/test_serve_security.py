"""Who may reach the server, and what a client may make it hold: raw connections, headers, hosts, kinds of bodies."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from homer import HomerModel
from homer_integrations.serve import ServeSettings, create_app
from homer_integrations.serve import connection as connection_module
from homer_integrations.serve.guard import MAX_HEADER_BYTES
from homer_integrations.serve.hosts import Hosts
from homer_integrations.serve.jobs import Job
from homer_integrations.serve.server import Server
from tests.serving import DOCUMENTS_OF_FACT, chat_body, running, wait_until

BODY = json.dumps(chat_body(DOCUMENTS_OF_FACT)).encode()


class NoBackend:
    """What no refused request may reach."""

    def stream(self, job: Job) -> Any:
        raise AssertionError("reached the model")

    def busyness(self) -> dict[str, float]:
        return {}


def asking(host: str = "127.0.0.1", **settings: Any) -> httpx.AsyncClient:
    app = create_app(NoBackend(), ServeSettings(**settings), host)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


@pytest.fixture(scope="module")
def server(mini: HomerModel) -> Iterator[Server]:
    with running(ServeSettings(model=mini, served_name="mini", api_key="secret")) as started:
        yield started


def connect(server: Server) -> socket.socket:
    connection = socket.create_connection(server.servers[0].sockets[0].getsockname()[:2], timeout=20)
    return connection


def exchange(server: Server, *sent: bytes) -> bytes:
    """What comes back for bytes, until the server closes."""
    received = b""
    with connect(server) as connection:
        for part in sent:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(2**16):
            received += chunk
    return received


def answered(received: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("host", ["x/healthz?", "x/healthz#", "localhost/healthz?", "/healthz", "localhost"])
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/mini", "/metrics"]
)
@pytest.mark.parametrize("allowed", [(), ("*",)])
async def test_no_host_opens_a_path_without_the_key(host: str, path: str, allowed: tuple[str, ...]) -> None:
    async with asking(api_key="secret", allowed_hosts=allowed) as client:
        headers = {"host": host, "content-type": "application/json"}
        method = "POST" if path.endswith("completions") else "GET"
        answer = await client.request(method, path, content=BODY, headers=headers)
    assert answer.status_code == (401 if allowed or host == "localhost" else 421)


@pytest.mark.parametrize(
    "path", ["/healthz/../metrics", "//healthz", "/healthz/", "/metrics?/healthz", "/metrics#/healthz"]
)
def test_no_spelling_of_a_path_goes_without_the_key(server: Server, path: str) -> None:
    received = exchange(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert received.split()[1] in (b"400", b"401", b"404", b"307")
    assert b"homer_" not in received


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer sécret", 200), ("bearer sécret", 200), ("Bearer  sécret ", 200), ("Bearer secret", 401),
        ("sécret", 401), ("Basic sécret", 401), ("", 401), ("Bearer ", 401), ("Bearer", 401),
    ],
)  # fmt: skip
async def test_the_key_may_be_any_text(header: str, status: int) -> None:
    async with asking(api_key="sécret") as client:
        answer = await client.get("/v1/models", headers=[(b"authorization", header.encode())])
        assert (await client.get("/healthz")).status_code == 200
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("bound", "allowed", "right", "wrong"),
    [
        (
            "127.0.0.1", (), ["127.0.0.1:80", "localhost", "LOCALHOST.:8000", "[::1]:8000", "127.0.0.2"],
            ["evil.example", "evil.example:8000", "192.168.0.7", "localhost.evil.example", "127.0.0.1.evil.example", "",
             "localhost@evil.example", "localhost, evil.example", "x/healthz?", "[::1", "0.0.0.0", "::1:80:"],
        ),
        ("localhost", (), ["localhost:1", "127.0.0.1"], ["evil.example"]),
        ("::1", (), ["[::1]:8000", "localhost"], ["evil.example", "[::2]"]),
        ("0.0.0.0", (), ["192.168.0.7:8000", "[fe80::1]", "localhost", socket.gethostname()], ["evil.example"]),
        ("10.0.0.5", ("homer", "Homer.Example."), ["10.0.0.5", "homer:8000", "homer.example"], ["other.example"]),
        ("127.0.0.1", ("*",), ["anything.example"], []),
    ],
)  # fmt: skip
def test_names_of_a_server(bound: str, allowed: tuple[str, ...], right: list[str], wrong: list[str]) -> None:
    hosts = Hosts(bound, allowed)
    assert [name for name in right if not hosts.right(name)] == []
    assert [name for name in wrong if hosts.right(name)] == []


async def test_another_host_is_refused_everywhere_unless_it_is_allowed() -> None:
    for path in ("/v1/models", "/healthz", "/metrics", "/none"):
        async with asking() as client:
            answer = await client.get(path, headers={"host": "evil.example"})
            assert answer.status_code == 421
            assert "--allowed-hosts" in answer.json()["error"]["message"]
    async with asking(allowed_hosts="homer, other") as client:
        assert (await client.get("/healthz", headers={"host": "homer:9"})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"content-type": ""}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=application/json"},
        {"content-type": "text/plain;application/json"}, {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)  # fmt: skip
async def test_a_body_that_is_not_said_to_be_json_is_refused(headers: dict[str, str]) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        async with asking() as client:
            answer = await client.post(path, content=BODY, headers=headers)
        assert answer.status_code == 415
        assert "application/json" in answer.json()["error"]["message"] or "Content-Encoding" in answer.text


def test_json_in_other_words(server: Server) -> None:
    for kind in ("application/json", "Application/JSON; charset=UTF-8", "application/json;charset=utf8"):
        headers = {"content-type": kind, "authorization": "Bearer secret"}
        assert (
            httpx.post(f"{server.url}/chat/completions", content=BODY, headers=headers, timeout=60).status_code == 200
        )


def test_a_long_header_is_refused_before_it_is_held(server: Server) -> None:
    """Of 300 MB only the first is read: the rest finds a closed connection."""
    sent = 0
    with connect(server) as connection:
        try:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
            for _ in range(300):
                connection.sendall(b"a" * 2**20)
                sent += 1
        except OSError:
            pass
    assert sent < 20


@pytest.mark.parametrize("lines", [[b"X: " + b"a" * MAX_HEADER_BYTES], [b"X: " + b"a" * 99] * (MAX_HEADER_BYTES // 90)])
@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
def test_the_length_of_a_header(server: Server, lines: list[bytes], end: bytes) -> None:
    received = exchange(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"\r\n".join(lines) + end)
    status, error = answered(received)
    assert (status, error["code"]) == (431, "header_too_large")
    assert str(MAX_HEADER_BYTES) in error["message"]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_is_told_so_in_openais_shape(server: Server, sent: bytes) -> None:
    status, error = answered(exchange(server, sent))
    assert status == 400
    assert error["type"] == "invalid_request_error"


def test_half_a_header_and_the_rest_of_a_refused_body_are_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "HEADER_SECONDS", 0.5)
    refused = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{"
    starts = [b"", b"GET /healthz HTTP/1.1\r\nHost: lo", b"G", refused]
    connections = [connect(server) for _ in range(8)]
    for number, connection in enumerate(connections):
        connection.sendall(starts[number % 4])
    time.sleep(0.3)
    for connection in connections[1::4]:
        connection.sendall(b"c")  # a byte now and then gains no time
    wait_until(lambda: not server.server_state.connections, 3)
    received = [connection.recv(2**16) for connection in connections]
    assert received[0] == b""
    assert answered(received[1])[0] == 408
    assert answered(received[3])[0] == 401
    for connection in connections:
        connection.close()


def test_a_connection_that_is_kept_alive_has_its_whole_time_for_every_header(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "HEADER_SECONDS", 1.0)
    with connect(server) as connection:
        for _ in range(3):
            connection.sendall(b"GET /healthz HTTP/1.1\r\n")
            time.sleep(0.5)
            connection.sendall(b"Host: localhost\r\n\r\n")
            received = b""
            while not received.endswith(b"}"):  # head and body may come by themselves
                received += connection.recv(2**16)
            assert received.startswith(b"HTTP/1.1 200")
            time.sleep(0.2)


def test_a_client_that_leaves_leaves_no_traceback(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Authorization: Bearer secret\r\n"
    with caplog.at_level(logging.INFO):
        for sent in (
            head + b"Content-Length: 1000\r\n\r\n{", head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
            head + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n", head[:50],
            head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + b"no HTTP\r\n\r\n",
        ):  # fmt: skip
            with connect(server) as connection:
                connection.sendall(sent)
                time.sleep(0.1)
        wait_until(lambda: not server.server_state.connections and not server.engine.busyness()["requests_running"])
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []
