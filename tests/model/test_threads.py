"""Answers from threads: in a process that was forked off after the threads had begun, as servers do it."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import homer
from homer import Answer, Usage
from homer_integrations.shared.loading import shared_model
from homer_integrations.shared.threads import answer_in_thread

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

FORKED = """
import asyncio, multiprocessing, sys, torch
torch.set_num_threads(1)
from llama_index.core.schema import TextNode
from homer_integrations import langchain, llama_index

FACT = "The door code for the northern archive is 48213."
QUESTION = "What is the door code for the northern archive?"
chat, llm = langchain.ChatHomer(max_tokens=8), langchain.HomerLLM(max_tokens=8)
engine = llama_index.HomerQueryEngine.from_documents([FACT], llama_index.HomerLLM(max_tokens=8))

async def ask():
    texts = [(await chat.ainvoke(QUESTION, documents=[FACT])).text, await llm.ainvoke(QUESTION, documents=[FACT])]
    texts += ["".join([chunk.text async for chunk in chat.astream(QUESTION, documents=[FACT])])]
    texts += [str(await engine.aquery(QUESTION))]
    assert [text.rstrip(".") for text in texts] == ["48213"] * 4, texts

asyncio.run(ask())
child = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(asyncio.wait_for(ask(), 60)))
child.start()
child.join(90)
child.kill()
asyncio.run(ask())
sys.exit(child.exitcode)
"""


def test_wrappers_answer_after_a_fork() -> None:
    folder = str(Path(homer.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", FORKED], env=environment, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stderr


class Said:
    """A stream that says one word."""

    def parts(self) -> Any:
        return iter(["word"])

    def answer(self) -> Answer:
        return Answer("word", (), Usage(1, 1, 1), "stop")

    def cancel(self) -> None:
        """Nothing goes on."""


async def say() -> str:
    open_stream: Any = Said
    return (await asyncio.wait_for(answer_in_thread(open_stream), 20)).text


def in_a_fork(work: Callable[[], None]) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    child.kill()
    return child.exitcode


def test_workers_are_renewed_in_a_child_and_in_its_child() -> None:
    def work() -> None:
        assert asyncio.run(say()) == "word"

    def work_and_fork() -> None:
        work()
        assert in_a_fork(work) == 0
        work()

    work()
    assert in_a_fork(work_and_fork) == 0
    work()


def test_locks_that_a_thread_held_at_the_fork_are_free_in_the_child(mini: homer.HomerModel, tmp_path: Path) -> None:
    from homer.text import tokenizing
    from homer_integrations.shared import loading, once

    store, states = homer.StateStore(tmp_path), mini.encode([5, 6, 7], prefix=[1]).leaves[0]
    locks = [tokenizing._LOCK, loading._LOCK, once._LOCK, store._lock, store._folder._folder._lock]
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        done.wait(60)
        for lock in locks:
            lock.release()

    def work() -> None:
        assert shared_model("mini", {}).tokenize("word")
        assert once.items_of(word for word in "ab") == ("a", "b")
        store.put("0" * 64, states)  # torch itself may not compute here: its own threads did not come along
        assert store.get("0" * 64, torch.device("cpu")) is states

    shared_model("mini", {})
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    try:
        assert in_a_fork(work) == 0
    finally:
        done.set()
        thread.join()
