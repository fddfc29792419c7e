"""The parts of the server, without HTTP: turns, the store, requests, documents."""

import asyncio
import base64
import dataclasses
import gc
import itertools
import json
import os
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from homer import CompactCache, Document, HomerModel, InputError
from homer_integrations.serve.documents import to_conversation
from homer_integrations.serve.errors import ServeError
from homer_integrations.serve.limits import check_values
from homer_integrations.serve.pool import GivingBack, settle_garbage, settle_pool
from homer_integrations.serve.protocol import ChatRequest, CompletionRequest, parse
from homer_integrations.serve.queue import FairQueue
from homer_integrations.serve.settings import ServeSettings
from homer_integrations.serve.store import CacheStore, cache_key
from homer_integrations.serve.turns import SLICE, Pace, Turns
from tests.conftest import random_ids
from tests.small import damaged

SETTINGS = ServeSettings()


def test_only_one_computes_at_a_time_and_time_is_shared() -> None:
    turns, computing, most = Turns(), [0], [0]
    steps: dict[str, list[float]] = {"slow": [], "quick": []}
    start = threading.Barrier(2)

    def work(name: str, seconds: float, count: int) -> None:
        turn = turns.join()
        start.wait()
        with turn:
            for _ in range(count):
                computing[0] += 1
                most[0] = max(most[0], computing[0])
                time.sleep(seconds)
                computing[0] -= 1
                steps[name].append(time.monotonic())
                turn.pass_on()

    threads = [threading.Thread(target=work, args=a) for a in (("slow", 0.05, 8), ("quick", 0.005, 40))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most[0] == 1
    assert len(steps["slow"]) == 8
    assert len(steps["quick"]) == 40
    # 40 quick steps are worth 4 slow ones: they end well before the slow ones, though they are five times as many
    assert sum(at < steps["quick"][-1] for at in steps["slow"]) <= 6


def test_a_newcomer_waits_for_nobody_to_finish_and_ousts_nobody() -> None:
    turns, order = Turns(), []
    old = turns.join()
    with old:
        time.sleep(0.05)

        def newcomer() -> None:
            with turns.join():
                order.append("new")

        thread = threading.Thread(target=newcomer)
        thread.start()
        while not turns._waiting:
            time.sleep(0.001)
        time.sleep(0.01)
        old.pass_on()
        order.append("old")
    thread.join(10)
    assert order == ["new", "old"]


def test_what_is_urgent_waits_for_one_step_however_many_others_there_are() -> None:
    turns, done, gaps = Turns(), threading.Event(), []

    def read() -> None:
        with turns.join() as turn:
            while not done.is_set():
                time.sleep(0.005)
                turn.pass_on()

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    streams = turns.join(urgent=True)
    for _ in range(12):
        start = time.monotonic()
        with streams:
            gaps.append(time.monotonic() - start)
            time.sleep(0.03)  # more than its share, which would make it wait for all eight
    done.set()
    for reader in readers:
        reader.join(10)
    assert sorted(gaps)[9] < SLICE + 0.03 < 8 * SLICE


def test_those_that_read_change_after_a_slice_and_not_after_every_step() -> None:
    turns, order = Turns(), []

    def read(name: str) -> None:
        with turns.join() as turn:
            for _ in range(30):
                order.append(name)
                time.sleep(0.002)
                turn.pass_on()

    readers = [threading.Thread(target=read, args=(name,)) for name in "ab"]
    start = time.monotonic()
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(10)
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert 2 <= changes <= (time.monotonic() - start) / SLICE + 1


def test_a_program_waits_for_the_step_three_before(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, int]] = []

    class Event:
        def __init__(self) -> None:
            self.recorded = 0

        def synchronize(self) -> None:
            done.append(("waited", self.recorded))

        def record(self) -> None:
            self.recorded = sum(kind == "recorded" for kind, _ in done) + 1
            done.append(("recorded", self.recorded))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    pace = Pace(torch.device("cuda"), steps=3)
    for _ in range(5):
        pace.keep()
    assert [step for kind, step in done if kind == "waited"] == [0, 0, 0, 1, 2]
    done.clear()
    Pace(torch.device("cpu")).keep()
    assert not done


def test_a_turn_knows_whether_it_computes() -> None:
    turn = Turns().join()
    assert not turn.computes
    with turn:
        assert turn.computes
    assert not turn.computes


def test_a_turn_is_given_back_when_its_step_fails() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.join():
        raise ZeroDivisionError
    assert turns._holder is None


async def test_of_those_who_wait_each_client_is_let_in_in_turn() -> None:
    queue, order = FairQueue(1), []

    async def ask(client: str) -> None:
        async with queue.turn_of(client):
            order.append(client)
            await asyncio.sleep(0)

    async with queue.turn_of("first"):
        tasks = [asyncio.create_task(ask(client)) for client in ("many", "many", "many", "many", "one", "other")]
        await asyncio.sleep(0.01)
        tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["many", "one", "other", "many", "many"]
    async with asyncio.timeout(1), queue.turn_of("again"):
        pass


async def test_a_place_is_not_lost_on_one_who_leaves_as_he_is_let_in() -> None:
    queue = FairQueue(1)
    async with queue.turn_of("first"):
        task = asyncio.create_task(queue.turn_of("second").__aenter__())
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(1), queue.turn_of("third"):
        pass


def compact(model: HomerModel, seed: int = 0) -> CompactCache:
    return model.compress(*random_ids(4, 100, 4, seed=seed))


def test_the_store_keeps_within_its_bytes_what_was_used_last(tiny: HomerModel) -> None:
    caches = [compact(tiny, seed) for seed in range(3)]
    store = CacheStore(2 * caches[0].nbytes)
    store.put("a", caches[0])
    store.put("b", caches[1])
    assert store.get("a") is caches[0]
    store.put("c", caches[2])
    assert store.get("b") is None
    assert store.get("a") is caches[0]
    assert store.nbytes == 2 * caches[0].nbytes
    assert len(CacheStore(0)) == 0
    nothing = CacheStore(1)
    nothing.put("a", caches[0])
    assert nothing.get("a") is None


def test_the_store_outlives_its_process_in_a_folder(tiny: HomerModel, tmp_path: Path) -> None:
    cache = compact(tiny)
    CacheStore(0, tmp_path, 2**20).put("a", cache)
    again = CacheStore(2**20, tmp_path, 2**20)
    assert again.get("a").token_ids.tolist() == cache.token_ids.tolist()
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    for at in (9, 60, len(whole) // 2, 1):  # one byte, anywhere
        path.write_bytes(damaged(whole, at))
        again = CacheStore(0, tmp_path, 2**20)
        assert again.get("a") is None
        assert not path.exists()
        assert path.with_name(f"{path.name}.damaged").exists()  # put aside,
        again.put("a", cache)  # and made anew
        assert again.get("a").token_ids.tolist() == cache.token_ids.tolist()


def test_the_folder_keeps_within_its_bytes(tiny: HomerModel, tmp_path: Path) -> None:
    CacheStore(0, tmp_path, 2**20).put("a", compact(tiny))
    size = next(tmp_path.glob("*.safetensors")).stat().st_size
    theirs = tmp_path / "model.safetensors"
    theirs.write_bytes(b"1" * 4 * size)
    os.utime(theirs, (1, 1))
    store = CacheStore(0, tmp_path, int(2.5 * size))
    for name in "bcd":
        time.sleep(0.01)
        store.put(name, compact(tiny))
    assert [name for name in "abcd" if store.get(name)] == ["c", "d"]
    assert theirs.exists()


def test_files_of_others_are_never_removed(tiny: HomerModel, tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    theirs = [tmp_path / f"{'a' * 64}.safetensors", tmp_path / "model.safetensors", tmp_path / "ab" / "x.safetensors"]
    for path in theirs:
        path.write_text("theirs")
        os.utime(path, (1, 1))
    CacheStore(0, tmp_path, 2**20).put("a", compact(tiny))
    size = next((tmp_path / "homer-store").glob("*.safetensors")).stat().st_size
    store = CacheStore(0, tmp_path, size + 1)
    for name in "bcd":
        store.put(name, compact(tiny))
    assert [path.read_text() for path in theirs] == ["theirs"] * 3
    assert len(list((tmp_path / "homer-store").glob("*.safetensors"))) == 1


def test_a_key_holds_all_that_a_cache_depends_on(mini: HomerModel) -> None:
    def key(text: str = "a", question: str = "Why?", limit: int | None = None, **config: Any) -> str:
        prompt = mini.build_prompt(question, [text])
        return cache_key(mini, prompt, dataclasses.replace(mini.config, **config), limit)

    keys = [key(), key("b"), key(question="How?"), key(limit=5), key(target_len=300)]
    keys.append(cache_key(mini, mini.build_prompt("Why?", ["a"]), mini.config, None, encoded=True))
    calibration = dataclasses.replace(mini.calibration, means=mini.calibration.means + 1)
    other = HomerModel(mini.model, mini.tokenizer, mini.config, calibration)
    keys.append(cache_key(other, mini.build_prompt("Why?", ["a"]), mini.config, None))
    assert key() == keys[0]
    assert len(set(keys)) == len(keys)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "mini", "messages": [{"role": "user", "content": "Why?"}]} | fields).encode()


def test_what_asks_for_nothing_is_taken() -> None:
    asked = parse(
        ChatRequest,
        body(
            n=1, tools=None, tool_choice="auto", response_format={"type": "text"}, presence_penalty=0.0, user="me",
            metadata={"a": "b"}, logit_bias={}, stream_options={"include_usage": True}, max_completion_tokens=5,
            temperature=0, top_p=0.5, stop=["x"], seed=3, timeout=9,
        ),
    )  # fmt: skip
    (job,) = asked.jobs(SETTINGS)
    assert job.options == {"temperature": 0, "top_p": 0.5, "stop": ["x"], "seed": 3, "max_completion_tokens": 5}
    assert job.timeout == 9
    assert asked.wants_usage
    assert parse(ChatRequest, body()).jobs(SETTINGS)[0].timeout == SETTINGS.timeout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Invalid JSON"),
        (b"[1]", "should be an object"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b'{"model": "mini"}', "messages"),
        (body(messages=[]), "messages"),
        (body(messages=[{"role": "user"}]), "message 1 has no 'content'"),
        (body(messages=[{"content": "a"}]), "message 1 has no 'role'"),
        (body(messages=[{"role": "user", "content": "a", "tool_call_id": "b"}]), "message 1 has a key 'tool_call_id'"),
        (body(messages=[{"role": "user", "content": None}]), "message 1 has no 'content'"),
        (body(stop=["a"] * 17), "stop holds 17 strings"),
        (body(stop="a" * 1001), "stop holds 1 strings of up to 1001 characters"),
        (body(previous_response_id="a"), "previous_response_id='a'"),
        (body(n=9), "n: "),
        (body(temprature=1), "temprature=1"),
        (body(temperature=-1), "temperature"),
        (body(max_tokens=0), "max_tokens"),
        (body(max_tokens="many"), "max_tokens"),
        (body(seed=2**63), "seed"),
        (body(timeout=-1), "timeout"),
        (b'{"model": "mini", "messages": [{"role": "user", "content": "a"}], "top_p": NaN}', "top_p"),
        (body(stream_options={"usage": True}), "stream_options.usage"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_done_is_refused_by_name(content: bytes, words: str) -> None:
    with pytest.raises(ServeError) as found:
        parse(ChatRequest, content)
    assert found.value.problem.status == 400
    assert words in found.value.problem.message


def test_bookkeeping_of_other_services_is_passed_over() -> None:
    messages = [
        {"role": "user", "content": "Hello", "name": "me", "id": "1", "timestamp": 3},
        {"role": "assistant", "content": None, "chat_id": "c"},
        {"role": "user", "content": "Why?", "user": "me"},
    ]
    for user in ("me", {"name": "me"}, 7, None):
        asked = parse(ChatRequest, body(messages=messages, chat_id="c", session_id=3, metadata="s", user=user))
        (job,) = asked.jobs(SETTINGS, "1.2.3.4")
        assert job.client == ("me" if user == "me" else "1.2.3.4")
        assert [message["content"] for message in job.messages] == ["Hello", "", "Why?"]
    assert parse(ChatRequest, body(metadata=["a"])).jobs(SETTINGS)


def test_more_than_the_server_takes() -> None:
    settings = ServeSettings(max_messages=3, max_documents=2, max_prompts=2)
    message = {"role": "user", "content": "Why?"}
    files = [{"type": "text", "text": "Why?"}, *[file(url(b"a"))] * 3]
    for words, asked in (
        ("holds 4 messages", parse(ChatRequest, body(messages=[message] * 4))),
        ("holds 3 documents", parse(ChatRequest, body(documents=["a"] * 3))),
        ("holds 3 documents", parse(ChatRequest, body(messages=[{"role": "user", "content": files}]))),
        ("holds 3 prompts", parse(CompletionRequest, b'{"model": "mini", "prompt": ["a", "b", "c"]}')),
    ):
        with pytest.raises(ServeError, match=words) as found:
            asked.jobs(settings)
        assert found.value.problem.status == 400
    assert len(parse(ChatRequest, body(messages=[message] * 3, documents=["a"] * 2)).jobs(settings)) == 1


def test_so_many_values_are_not_even_parsed() -> None:
    check_values(body(documents=["a, b"] * 10), 50)
    for many in (b"[" + b"1," * 100 + b"1]", b"[" + b"{}," * 100 + b"1]", body(documents=["a"] * 100)):
        with pytest.raises(ServeError, match="this server takes 50") as found:
            check_values(many, 50)
        assert found.value.problem.status == 413


def test_prompts_of_completions() -> None:
    asked = parse(CompletionRequest, b'{"model": "mini", "prompt": ["a", "b"], "echo": false}')
    assert [job.messages[0]["content"] for job in asked.jobs(SETTINGS)] == ["a", "b"]
    for bad in (b'{"model": "mini", "prompt": [1, 2]}', b'{"model": "mini", "prompt": ""}', b'{"model": "mini"}'):
        with pytest.raises(ServeError, match="prompt"):
            parse(CompletionRequest, bad)


def url(data: bytes, kind: str = "text/plain") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def file(data: str, name: str = "a.txt") -> dict[str, Any]:
    return {"type": "file", "file": {"filename": name, "file_data": data}}


def test_documents_by_every_road() -> None:
    forms = [
        "plain",
        {"title": "t", "text": "titled"},
        {"id": "n1", "data": "a string"},
        {"id": "n2", "data": {"text": "in data"}},
        {"data": {"title": "t3", "snippet": "cut", "url": "u", "year": 7}},
    ]
    _, documents = to_conversation([{"role": "user", "content": "Why?"}], forms)
    assert documents == (
        Document("plain"), Document("titled", "t"), Document("a string", "n1"), Document("in data", "n2"),
        Document("snippet: cut\nurl: u\nyear: 7", "t3"),
    )  # fmt: skip
    parts = [{"type": "text", "text": "Why"}, file(url("é".encode())), {"type": "text", "text": "so?"}]
    messages, documents = to_conversation(
        [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}], []
    )
    assert messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why\nso?"})
    assert documents == (Document("é", "a.txt"),)
    marked = [file(url("\ufeffé日".encode(name))) for name in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")]
    _, documents = to_conversation([{"role": "user", "content": [{"type": "text", "text": "Why?"}, *marked]}], [])
    assert [document.text for document in documents] == ["é日"] * 4
    said = file(url("é".encode("latin-1"), "text/plain;charset=latin-1"))
    _, documents = to_conversation([{"role": "user", "content": [{"type": "text", "text": "Why?"}, said]}], [])
    assert documents[0].text == "é"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "type 'image_url'"),
        ({"type": "file", "file": {"file_id": "f"}}, "file_id"),
        (file("data:text/plain,abc"), "not marked as base64"),
        (file("data:text/plain;base64,???"), "no base64"),
        (file("data:text/plain;base64,YWJjé"), "no base64"),
        (file(url(b"\xff")), "no UTF-8"),
        (file(url("é".encode("utf-16-le"))), "no UTF-8"),
        (file(url("ab".encode("utf-16-le"))), "holds a zero at character 1"),
        (file(url(b"x", "text/plain;charset=klingon")), "'klingon', which is no charset"),
        (file(url(b"x", "image/png")), "type 'image/png'"),
        (file(url(b"%PDF-no", "application/pdf"), "a.pdf"), "'a.pdf' cannot be read as a PDF"),
    ],
)
def test_parts_that_cannot_be_read(part: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match="message 1|file|type|UTF-8|PDF|zero") as found:
        to_conversation([{"role": "user", "content": [part]}], [])
    assert words in str(found.value)


def test_titles_that_are_missing_or_no_text() -> None:
    nan = float("nan")
    forms = [
        {"text": "a", "title": nan, "metadata": {"source": nan, "file_name": "a.txt"}},
        {"id": nan, "data": {"text": "b", "title": nan}},
        {"text": "c", "title": 5, "metadata": {}},
        {"text": "d", "metadata": {"title": nan}},
    ]
    _, documents = to_conversation([], forms)
    assert documents == (Document("a", "a.txt"), Document("b"), Document("c", "5"), Document("d"))


def test_roads_that_disagree_roles_and_bad_documents() -> None:
    with pytest.raises(InputError, match="others: give them by one"):
        to_conversation([{"role": "user", "content": [file(url(b"a"))]}], ["b"])
    with pytest.raises(InputError, match="role 'critic'"):
        to_conversation([{"role": "critic", "content": "a"}], [])
    for bad in (
        {"data": {}}, {"id": 1, "data": 3}, {"data": "a", "text": "b"}, 5, {"title": "no text"}, None, [], True,
        {"text": "a", "metadata": "s"}, {"text": "a", "metadata": ["s"]}, {"text": "a", "title": ["t"]},
        {"id": {}, "data": "a"}, {"data": {"text": "a", "title": {}}},
    ):  # fmt: skip
        with pytest.raises(InputError, match="document 1"):
            to_conversation([{"role": "user", "content": "a"}], [bad])


def test_threads_of_a_server_share_one_pool_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    library = types.SimpleNamespace(mallopt=lambda *given: told.append(given))
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    settle_pool()
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())  # another C library
    settle_pool()
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    settle_pool()
    assert told == [(-8, 1), (-3, 1 << 20), (-3, 1 << 20)]


def test_what_a_server_holds_for_good_is_no_garbage_to_look_for() -> None:
    settle_garbage()
    try:
        assert gc.get_freeze_count() > 0
        assert len(gc.get_objects()) < gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_memory_goes_back_once_nothing_runs() -> None:
    given = threading.Event()
    giving = GivingBack(0.05, given.set)
    giving.rest()
    assert given.wait(5)
    given.clear()
    giving.rest()
    giving.work()
    assert not given.wait(0.2)  # somebody came


def test_another_c_library_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    giving = GivingBack(0.0)
    giving.rest()
    assert giving._timer is None
