"""Tokens to text as they come: held back where the next token may change it, cut at stop strings, cancellable."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from homer.errors import GenerationError
from homer.generation.seat import Seat
from homer.generation.telling import Teller
from homer.view.logprobs import TokenLogprob


@dataclasses.dataclass(frozen=True)
class Generation:
    """What was generated.

    Attributes:
        text: None where the model has no tokenizer.
        token_ids: the new tokens only; a last end-of-text token is among them.
        finish_reason: "stop" (end of text, a stop string, or the end of a grammar), "length" or "cancelled". What a
            grammar was to shape is whole only where it is "stop".
        logprobs: of the tokens of the text, the last end-of-text token excepted; None where they were not asked for.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] | None = None


class Stream(Iterator[str]):
    """Text as it is generated. Iterate over it; afterwards `result` says how it ended.

    `cancel` may be called from any thread and takes effect at the next token. What it holds is freed then, at its
    end, or when nobody holds it any more.

    Args:
        whole: asked where the tokens end by themselves: whether the text is complete, or was cut.
        teller: what notes the log-probabilities of the tokens, where they are asked for.
    """

    def __init__(
        self,
        tokens: Iterator[int],
        end_ids: frozenset[int],
        tokenizer: Any,
        stops: Sequence[str],
        whole: Callable[[], bool] = lambda: False,
        teller: Teller | None = None,
    ) -> None:
        if stops and tokenizer is None:
            raise GenerationError("stop needs a tokenizer, and this model has none: leave it out, or give a tokenizer")
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self._tokens, self._end_ids, self._stops = tokens, end_ids, stops
        self._tokenizer, self._whole, self._teller = tokenizer, whole, teller
        self._cancelled = threading.Event()
        self._pieces = self._run()

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def logprobs(self) -> Sequence[TokenLogprob] | None:
        """Of the tokens whose text has come; None where they were not asked for."""
        return None if self._teller is None else self._teller.told

    def enter(self) -> None:
        """Generate together with others from now on, and not only from when this is first read."""
        if isinstance(self._tokens, Seat):
            self._tokens.enter()

    def cancel(self) -> None:
        """Stop generating before the next token."""
        self._cancelled.set()
        self._leave()

    def result(self) -> Generation:
        """What was generated; runs to the end first."""
        for _ in self:
            pass
        text = None if self._tokenizer is None else self.text
        return Generation(text, self.token_ids, self.finish_reason or "cancelled", self._told())

    def _told(self) -> tuple[TokenLogprob, ...] | None:
        return None if self.logprobs is None else tuple(self.logprobs)

    def _run(self) -> Iterator[str]:
        try:
            yield from self._pieces_of_tokens()
        finally:
            self._leave()  # nobody reads on

    def _pieces_of_tokens(self) -> Iterator[str]:
        decoder = _TextDecoder(self._tokenizer)
        held = ""
        for token in self._tokens:
            if self._cancelled.is_set():
                break
            self.token_ids.append(token)
            if token in self._end_ids:
                self.finish_reason = "stop"
                break
            self._note(token, len(self.text) + len(held))
            held += decoder.push(token)
            place = _first_stop(held, self._stops)
            if place is not None:
                self.finish_reason = "stop"
                yield from self._emit(held[:place])
                return
            safe = len(held) - _partial_stop(held, self._stops)
            yield from self._emit(held[:safe])
            held = held[safe:]
        if self.finish_reason is None:
            ended = "stop" if self._whole() else "length"
            self.finish_reason = "cancelled" if self._cancelled.is_set() else ended
        held += decoder.flush()
        place = _first_stop(held, self._stops)
        if self._teller is not None and place is None:
            self._teller.settle(None)
        yield from self._emit(held[:place])

    def _note(self, token: int, start: int) -> None:
        if self._teller is not None:
            self._teller.note(len(self.token_ids) - 1, token, start)

    def _leave(self) -> None:
        if isinstance(self._tokens, Seat):
            self._tokens.leave()

    def _emit(self, text: str) -> Iterator[str]:
        if text:
            self.text += text
            if self._teller is not None:
                self._teller.settle(len(self.text))
            yield text


class _TextDecoder:
    """Token ids to text, bit by bit: holds back what the next token may still change."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = self._done = 0

    def push(self, token: int) -> str:
        """The text that is certain once this token is there."""
        self._ids.append(token)
        text, known = self._text(), self._decode(self._ids[self._start : self._done])
        if len(text) <= len(known) or text.endswith("\ufffd"):
            return ""
        self._start, self._done = self._done, len(self._ids)
        return text[len(known) :]

    def flush(self) -> str:
        """The text still held back."""
        return self._text()[len(self._decode(self._ids[self._start : self._done])) :]

    def _text(self) -> str:
        return self._decode(self._ids[self._start :])

    def _decode(self, ids: list[int]) -> str:
        if self._tokenizer is None or not ids:
            return ""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    places = [text.find(stop) for stop in stops if stop in text]
    return min(places) if places else None


def _partial_stop(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that may be the beginning of a stop string."""
    longest = min(len(text), max(map(len, stops), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in stops)), 0)
