"""Tokens to text as they come: held back where the next token may change it, cut at stop strings, cancellable."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from homer.errors import GenerationError
from homer.generation.decoding import first_stop, partial_stop
from homer.generation.seat import Seat
from homer.generation.telling import Teller
from homer.generation.thoughts import Thought, ThoughtReader
from homer.text.constraining.grammar import Grammar
from homer.text.thinking import Thinking
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
        reasoning: what the model thought before, where that was to be read apart; it is among the tokens.
        reasoning_tokens: how many of them went into it.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str = ""
    reasoning_tokens: int = 0


class Stream(Iterator[str]):
    """Text as it is generated. Iterate over it; afterwards `result` says how it ended.

    Pieces of what a model thinks before it answers are `Thought`s, where `thinking` says how to tell them. Stop strings
    end the answer, and no thought.

    `cancel` may be called from any thread and takes effect at the next token. What it holds is freed then, at its
    end, or when nobody holds it any more.

    Args:
        whole: asked where the tokens end by themselves: whether the text is complete, or was cut.
        teller: what notes the log-probabilities of the answer's tokens, where they are asked for; of thoughts, none.
        thinking: how to tell what the model thinks before it answers.
        grammar: what the text looks like: by it, which special tokens are part of it, and where it holds no more words
            that a stop string could end.
    """

    def __init__(
        self,
        tokens: Iterator[int],
        end_ids: frozenset[int],
        tokenizer: Any,
        stops: Sequence[str],
        whole: Callable[[], bool] = lambda: False,
        teller: Teller | None = None,
        thinking: Thinking | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        if stops and tokenizer is None:
            raise GenerationError("stop needs a tokenizer, and this model has none: leave it out, or give a tokenizer")
        self.token_ids: list[int] = []
        self.text = self.reasoning = ""
        self.finish_reason: str | None = None
        self._tokens, self._end_ids, self._stops = tokens, end_ids, stops
        self._tokenizer, self._whole, self._teller = tokenizer, whole, teller
        marks, self._sealed = (grammar.marks, grammar.sealed) if grammar and tokenizer is not None else ((), "")
        self._reader = ThoughtReader(tokenizer, thinking if tokenizer is not None else None, marks)
        self._held, self._unread = "", list[tuple[int, int]]()  # tokens that may still be a mark's
        self._stopped = False  # by a stop string
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
        thought = self.reasoning, self._reader.tokens
        return Generation(text, self.token_ids, self.finish_reason or "cancelled", self._told(), *thought)

    def _told(self) -> tuple[TokenLogprob, ...] | None:
        return None if self.logprobs is None else tuple(self.logprobs)

    def _run(self) -> Iterator[str]:
        try:
            yield from self._pieces_of_tokens()
        finally:
            self._leave()  # nobody reads on

    def _pieces_of_tokens(self) -> Iterator[str]:
        for token in self._tokens:
            if self._cancelled.is_set():
                break
            self.token_ids.append(token)
            if token in self._end_ids:
                self.finish_reason = "stop"
                break
            for piece in self._push(token):
                yield from self._take(piece)
            if self.finish_reason is not None:  # at a stop string
                return
        if self.finish_reason is None:
            ended = "stop" if self._whole() else "length"
            self.finish_reason = "cancelled" if self._cancelled.is_set() else ended
        for piece in self._reader.flush():
            yield from self._take(piece)
        self._sealed = ""
        yield from self._take("")
        if self._teller is not None and not self._stopped:
            self._teller.settle(None)
        yield from self._emit(self._held)

    def _push(self, token: int) -> list[str]:
        """What a token adds; one of the answer, and not of a thought, is noted."""
        state, start = self._reader.state, len(self.text) + len(self._held)
        pieces = list(self._reader.push(token))
        self._unread.append((len(self.token_ids) - 1, token))
        if self._reader.state != "before":
            if self._teller is not None and self._reader.state == "words" and state != "thought":
                for number, read in self._unread:
                    self._teller.note(number, read, start)
            self._unread.clear()
        return pieces

    def _take(self, piece: str) -> Iterator[str]:
        """One more piece: what of it and of those before can no longer become a stop string."""
        if isinstance(piece, Thought):
            self.reasoning += piece
            yield piece
            return
        self._held += piece
        words, mark, _ = self._held.partition(self._sealed) if self._sealed else (self._held, "", "")
        maybe = partial_stop(words, (self._sealed,)) if self._sealed and not mark else 0  # of the mark's beginning
        cut = first_stop(words[: len(words) - maybe], self._stops)
        if cut is not None:
            self.finish_reason, self._stopped = "stop", True
            ready, self._held = self._held[:cut], ""
        else:
            self._stops = () if mark else self._stops
            safe = len(self._held) - max(maybe if self._stops else 0, partial_stop(self._held, self._stops))
            ready, self._held = self._held[:safe], self._held[safe:]
        yield from self._emit(ready)

    def _leave(self) -> None:
        if isinstance(self._tokens, Seat):
            self._tokens.leave()

    def _emit(self, text: str) -> Iterator[str]:
        if text:
            self.text += text
            if self._teller is not None:
                self._teller.settle(len(self.text))
            yield text
