"""AnswerStream: one prompt on its way to an answer; text as it comes, sources and usage at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from homer.answer import Answer, Usage, make_answer
from homer.cache import CompactCache
from homer.merge import Node
from homer.prompt import Prompt
from homer.streaming import Stream


class AnswerStream(Iterator[str]):
    """Text of an answer as it is generated, without white space at either end.

    Nothing runs before the first text is asked for. `cancel` may be called from any thread: it takes effect
    after the next chunk that is compressed, or before the next token.
    """

    def __init__(
        self, prompt: Prompt, compress: Callable[..., CompactCache], generate: Callable[[CompactCache], Stream]
    ) -> None:
        self.prompt = prompt
        self.cache: CompactCache | None = None
        self._compress, self._generate = compress, generate
        self._stream: Stream | None = None
        self._cancelled = threading.Event()
        self._text = ""
        self._pieces = self._run()

    def __next__(self) -> str:
        return next(self._pieces)

    def cancel(self) -> None:
        """Stop compressing or generating as soon as possible."""
        self._cancelled.set()

    def answer(self) -> Answer:
        """The whole answer; runs to the end first. What was cancelled during compression has no sources."""
        for _ in self:
            pass
        if self.cache is None or self._stream is None:
            return Answer("", (), Usage(len(self.prompt), 0, 0), "cancelled", self.prompt.question)
        return make_answer(self.prompt, self.cache, self._stream.result())

    def _run(self) -> Iterator[str]:
        try:
            self.cache = self._compress(watch=self._watch)
            self._stream = self._generate(self.cache)
        except _CancelledError:
            return
        held = ""
        for piece in self._stream:
            held = held + piece if self._text else (held + piece).lstrip()
            solid = len(held.rstrip())
            if solid:
                self._text += held[:solid]
                yield held[:solid]
                held = held[solid:]
            if self._cancelled.is_set():
                self._stream.cancel()

    def _watch(self, _: Node) -> None:
        if self._cancelled.is_set():
            raise _CancelledError


class _CancelledError(Exception):
    """Ends a compression that nobody waits for any more."""
