"""Answers from a thread: the event loop goes on meanwhile, and cancelling a task ends what it waited for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

Result = TypeVar("Result")
Whole = TypeVar("Whole")
Whole_co = TypeVar("Whole_co", covariant=True)


class Streaming(Protocol[Whole_co]):
    """An AnswerStream, or what is like one."""

    def parts(self) -> Iterator[str]:
        """Pieces of text, those of thoughts as well."""

    def cancel(self) -> None:
        """No more is wanted; from any thread."""

    def answer(self) -> Whole_co:
        """What came of it, which is no string."""


def _new_workers() -> ThreadPoolExecutor:
    """Threads of its own: those of the event loop are for others too, and answers take long."""
    return ThreadPoolExecutor(max_workers=min(32, (os.cpu_count() or 1) + 4), thread_name_prefix="homer")


_workers = _new_workers()


def _renew() -> None:
    """After a fork: no thread comes along, so what is handed to the workers of before would wait for ever."""
    global _workers
    _workers = _new_workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


async def stream_in_thread(
    open_stream: Callable[[], Streaming[Whole]], workers: Executor | None = None
) -> AsyncGenerator[str | Whole, None]:
    """The pieces of an answer as they come, and then the whole; it waits until one of the workers is free.

    What the model thinks before it answers is among them, as `Thought`s.

    Args:
        open_stream: called by the worker.
        workers: None for those that all wrappers share.

    Ending the iteration early, as a cancelled task does, cancels the stream. What the thread raises is raised here.
    """
    work = _Work(asyncio.get_running_loop(), open_stream)
    future = (workers or _workers).submit(work.run)
    try:
        item: str | Whole | BaseException = ""
        while isinstance(item, str):
            item = await work.queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        future.cancel()
        work.cancel()


async def answer_in_thread(open_stream: Callable[[], Streaming[Whole]]) -> Whole:
    """The whole answer, computed in a thread."""
    async with contextlib.aclosing(stream_in_thread(open_stream)) as items:
        async for item in items:
            if not isinstance(item, str):
                return item
    raise AssertionError("a stream ends with its answer")


async def work_in_thread(work: Callable[[Callable[[], None]], Result]) -> Result:
    """What a piece of work gives. Where this is cancelled, the work ends at its next tick, or never begins."""
    left = threading.Event()

    def tick() -> None:
        if left.is_set():
            raise AbandonedWorkError

    future = _workers.submit(work, tick)
    try:
        return await asyncio.wrap_future(future)
    finally:
        left.set()
        future.cancel()


class AbandonedWorkError(Exception):
    """Ends work that nobody waits for any more."""


class _Work(Generic[Whole]):
    """One stream in a thread; its items go to a queue of the event loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, open_stream: Callable[[], Streaming[Whole]]) -> None:
        self.queue: asyncio.Queue[str | Whole | BaseException] = asyncio.Queue()
        self._loop, self._open_stream = loop, open_stream
        self._lock = threading.Lock()
        self._stream: Streaming[Whole] | None = None
        self._cancelled = False

    def run(self) -> None:
        try:
            stream = self._open_stream()
            with self._lock:
                self._stream = stream
                if self._cancelled:
                    return
            for piece in stream.parts():
                self._put(piece)
            self._put(stream.answer())
        except BaseException as error:
            self._put(error)

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._stream is not None:
                self._stream.cancel()

    def _put(self, item: str | Whole | BaseException) -> None:
        try:
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)
        except RuntimeError:  # the event loop is closed, so nobody waits
            self.cancel()
