"""AnswerStream: one prompt on its way to an answer; text as it comes, sources and usage at the end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

from homer.base.arguments import check_real
from homer.errors import GenerationError, TimeoutExceededError
from homer.generation.stream import Generation, Stream
from homer.merging.cache import CompactCache
from homer.merging.node import Node
from homer.text.prompt import Prompt
from homer.view.answer import Answer
from homer.view.citations import Citation
from homer.view.sources import Usage, trace_sources
from homer.view.trace import Traceable

Cite = Callable[[Prompt, CompactCache, str], tuple[Citation, ...]]


class AnswerStream(Iterator[str]):
    """Text of an answer as it is generated, without white space at either end.

    Nothing runs before the first text is asked for. `cancel` may be called from any thread: it takes effect
    after the next chunk that is compressed, or before the next token.
    """

    def __init__(
        self,
        prompt: Prompt,
        compress: Callable[..., CompactCache],
        generate: Callable[[CompactCache], Stream],
        cite: Cite | None = None,
    ) -> None:
        self._cite = cite
        self.prompt = prompt
        self.cache: CompactCache | None = None
        self._compress, self._generate = compress, generate
        self._stream: Stream | None = None
        self._cancelled = threading.Event()
        self._deadline, self._seconds = math.inf, math.inf
        self._text = ""
        self._pieces = self._run()

    def __next__(self) -> str:
        return next(self._pieces)

    def cancel(self) -> None:
        """Stop compressing or generating as soon as possible."""
        self._cancelled.set()
        if self._stream is not None:
            self._stream.cancel()

    def within(self, seconds: float | None) -> AnswerStream:
        """The same stream, which from now on has so many seconds; None: as many as it takes.

        Raises:
            GenerationError: a time that is not above 0. TimeoutExceededError comes while the stream runs.
        """
        if seconds is not None:
            check_real("timeout", seconds, 0, error=GenerationError)
        if seconds is not None and not seconds > 0:
            raise GenerationError(f"timeout={seconds} must be above 0 seconds; None waits as long as it takes")
        self._seconds = math.inf if seconds is None else seconds
        self._deadline = time.monotonic() + self._seconds
        return self

    def answer(self) -> Answer:
        """The whole answer; runs to the end first. What was cancelled during compression has no sources."""
        for _ in self:
            pass
        if self.cache is None or self._stream is None:
            return Answer("", (), Usage(len(self.prompt), 0, 0), "cancelled", self.prompt.question)
        return make_answer(self.prompt, self.cache, self._stream.result(), self._cite)

    def _run(self) -> Iterator[str]:
        if self._cancelled.is_set():
            return
        try:
            self.cache = self._compress(watch=self._watch, tick=self._check)
            self._stream = self._generate(self.cache)
        except _CancelledError:
            return
        if self._cancelled.is_set():  # between the last chunk and the stream
            self._stream.cancel()
        try:
            yield from self._stripped(self._stream)
        except BaseException:  # out of time, or nobody reads on
            self._stream.cancel()
            raise

    def _stripped(self, pieces: Iterator[str]) -> Iterator[str]:
        held = ""
        for piece in pieces:
            self._check_time()
            held = held + piece if self._text else (held + piece).lstrip()
            solid = len(held.rstrip())
            if solid:
                self._text += held[:solid]
                yield held[:solid]
                held = held[solid:]

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutExceededError(
                f"no whole answer within timeout={self._seconds} seconds: raise timeout, or lower max_new_tokens or "
                f"the length of the documents ({len(self.prompt)} tokens)"
            )

    def _watch(self, _: Node) -> None:
        self._check()

    def _check(self) -> None:
        self._check_time()
        if self._cancelled.is_set():
            raise _CancelledError


def make_answer(prompt: Prompt, cache: CompactCache, generation: Generation, cite: Cite | None = None) -> Answer:
    """The answer that a generation from the cache of a prompt gives."""
    text = (generation.text or "").strip()
    return Answer(
        text=text,
        sources=trace_sources(prompt, cache),
        usage=Usage(cache.input_tokens, len(cache), len(generation.token_ids), cache.cached_tokens),
        finish_reason=generation.finish_reason,
        question=prompt.question,
        trace=Traceable.of(prompt, cache),
        citations=() if cite is None else cite(prompt, cache, text),
    )


class _CancelledError(Exception):
    """Ends a compression that nobody waits for any more."""
