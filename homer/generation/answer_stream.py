"""AnswerStream: one prompt on its way to an answer; text as it comes, sources and usage at the end."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from homer.base.arguments import check_real, check_whole
from homer.errors import GenerationError, TimeoutExceededError
from homer.generation.stream import Generation, Stream
from homer.generation.thoughts import Thought
from homer.merging.cache import CompactCache
from homer.merging.node import Node
from homer.text.prompt import Prompt
from homer.view.answer import Answer
from homer.view.citations import Citation
from homer.view.logprobs import Piece
from homer.view.sources import Usage, trace_sources
from homer.view.trace import Traceable

Text = TypeVar("Text", bound=str)
Cite = Callable[[Prompt, CompactCache, str], tuple[Citation, ...]]


class _Pieces(Iterator[Text]):
    """Pieces as they come, of which those of thoughts are passed over."""

    _pieces: Iterator[str]

    def __next__(self) -> Text:
        while isinstance(piece := next(self._pieces), Thought):
            pass
        return piece  # type: ignore[return-value]

    def parts(self) -> Iterator[str]:
        """All pieces: those of the answer, and before them, as `Thought`s, those of what the model thinks."""
        return self._pieces


class AnswerStream(_Pieces[str]):
    """Text of an answer as it is generated, without white space at either end.

    What the model thinks before it answers is left out; `parts` gives it too, as `Thought`s.

    Nothing runs before the first text is asked for. `cancel` may be called from any thread: it takes effect
    after the next chunk that is compressed, or before the next token. Where log-probabilities are asked for, every text
    is a `Piece` that holds those of its tokens.
    """

    def __init__(
        self,
        prompt: Prompt,
        compress: Callable[..., CompactCache],
        generate: Callable[..., Stream],
        cite: Cite | None = None,
    ) -> None:
        self._cite = cite
        self.prompt = prompt
        self.cache: CompactCache | None = None
        self._compress, self._generate = compress, generate
        self._stream: Stream | None = None
        self._cancelled = threading.Event()
        self._deadline, self._seconds = math.inf, math.inf
        self._pieces = self._run()

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

    def several(self, count: int) -> AnswerStreams:
        """So many answers to the same prompt, in place of this one: compressed once, and generated together.

        Each is drawn by a seed of its own, where there is one: the first by that, the others by those that follow it.

        Raises:
            GenerationError: a count that is no whole number from 1 on.
        """
        check_whole("n", count, 1, error=GenerationError)
        if count == 1:
            return AnswerStreams([self])
        compress = _Once(self._compress)
        opened = [functools.partial(self._generate, **({"number": n} if n else {})) for n in range(count)]
        streams = [AnswerStream(self.prompt, compress, generate, self._cite) for generate in opened]
        for stream in streams:
            stream._deadline, stream._seconds = self._deadline, self._seconds
        return AnswerStreams(streams)

    def _run(self) -> Iterator[str]:
        if self._cancelled.is_set():
            return
        stream = self._open()
        if stream is None:
            return
        try:
            yield from self._stripped(stream)
        except BaseException:  # out of time, or nobody reads on
            stream.cancel()
            raise

    def _open(self) -> Stream | None:
        """Compress, and begin to generate; None where that was cancelled. A second call gives the same stream."""
        if self._stream is not None:
            return self._stream
        try:
            self.cache = self._compress(watch=self._watch, tick=self._check)
            self._stream = self._generate(self.cache)
        except _CancelledError:
            return None
        if self._cancelled.is_set():  # between the last chunk and the stream
            self._stream.cancel()
        return self._stream

    def _stripped(self, stream: Stream) -> Iterator[str]:
        held: dict[type[str], str] = {}  # white space that may be the last, once there was something else
        told = 0
        for piece in stream:
            self._check_time()
            kind = Thought if isinstance(piece, Thought) else str
            text = held[kind] + piece if kind in held else piece.lstrip()
            solid = len(text.rstrip())
            if solid:
                held[kind] = text[solid:]
                logprobs = stream.logprobs
                if kind is Thought or logprobs is None:
                    yield kind(text[:solid])
                else:
                    yield Piece(text[:solid], logprobs[told:])
                    told = len(logprobs)
            elif kind in held:
                held[kind] = text

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


class AnswerStreams(_Pieces[Piece]):
    """Several answers to one prompt on their way: pieces of their texts as they come, each with its `choice`.

    `cancel` may be called from any thread. An error in one ends all.
    """

    def __init__(self, streams: Sequence[AnswerStream]) -> None:
        self._streams = streams
        self._pieces = self._run()

    def cancel(self) -> None:
        """Stop compressing or generating as soon as possible."""
        for stream in self._streams:
            stream.cancel()

    def within(self, seconds: float | None) -> AnswerStreams:
        """As AnswerStream.within, for all of them together."""
        for stream in self._streams:
            stream.within(seconds)
        return self

    def answers(self) -> tuple[Answer, ...]:
        """The whole answers, in their order; runs to the end first."""
        for _ in self:
            pass
        return tuple(stream.answer() for stream in self._streams)

    def answer(self) -> tuple[Answer, ...]:
        """As `answers`, by the name under which one stream has it."""
        return self.answers()

    def _run(self) -> Iterator[Piece]:
        try:
            for opened in [stream._open() for stream in self._streams]:
                if opened is not None:
                    opened.enter()  # before the first is read, so that all join in one step
            yield from self._by_turns()
        except BaseException:
            self.cancel()
            raise

    def _by_turns(self) -> Iterator[Piece]:
        """A piece of each that goes on: whoever is read leads the step of all."""
        going = dict(enumerate(self._streams))
        while going:
            for index, stream in list(going.items()):
                piece = next(stream.parts(), None)
                if piece is None:
                    del going[index]
                else:
                    kind = Thought if isinstance(piece, Thought) else Piece
                    yield kind(piece, piece.logprobs if isinstance(piece, Piece) else (), index)


class _Once:
    """A compression that several answers share: the first runs it."""

    def __init__(self, compress: Callable[..., CompactCache]) -> None:
        self._compress = compress
        self._cache: CompactCache | None = None

    def __call__(self, **arguments: Any) -> CompactCache:
        if self._cache is None:
            self._cache = self._compress(**arguments)
        return self._cache


def make_answer(prompt: Prompt, cache: CompactCache, generation: Generation, cite: Cite | None = None) -> Answer:
    """The answer that a generation from the cache of a prompt gives."""
    text = (generation.text or "").strip()
    return Answer(
        text=text,
        sources=trace_sources(prompt, cache),
        usage=Usage(
            cache.input_tokens,
            len(cache),
            len(generation.token_ids),
            cache.cached_tokens,
            generation.reasoning_tokens,
        ),
        finish_reason=generation.finish_reason,
        question=prompt.question,
        trace=Traceable.of(prompt, cache),
        citations=() if cite is None else cite(prompt, cache, text),
        logprobs=generation.logprobs,
        reasoning=generation.reasoning.strip(),
    )


class _CancelledError(Exception):
    """Ends a compression that nobody waits for any more."""
