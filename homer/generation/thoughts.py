"""Thoughts apart from answers, token by token: read out of what a model says, and let before a grammar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from homer.generation.decoding import TextDecoder, partial_stop
from homer.text.constraining.matching import BITS, Matcher, mask_rows
from homer.text.thinking import Thinking
from homer.view.logprobs import Piece

_CONTROL = "\ud800"  # before the name of a control token; no text that is decoded holds half a pair


class Thought(Piece):
    """A piece of what a model thinks before it answers."""


class ThoughtReader:
    """Reads one answer: pieces of thought as `Thought`, and what comes after as plain text.

    Where marks are control tokens, only those tokens are marks: the same letters in other tokens, as a document may
    make the model repeat them, are text. A thought stands at the head of an answer or nowhere.

    Args:
        marks: as of TextDecoder.

    Attributes:
        state: "before" a thought, in a "thought", or in "words".
        tokens: how many went into the thought and its marks.
    """

    def __init__(self, tokenizer: Any, thinking: Thinking | None, marks: Iterable[str] = ()) -> None:
        self.state = "words" if thinking is None else "thought" if thinking.opened else "before"
        self.tokens = 0
        self._tokenizer, self._marks = tokenizer, tuple(marks)
        self._decoder = TextDecoder(tokenizer, self._marks)
        self._held, self._thought = "", self.state == "thought"
        self._names: dict[int, str] = {}
        self._begin = self._end = ""
        if thinking is not None:
            self._begin, self._end = self._mark(thinking.begin), self._mark(thinking.end)

    def push(self, token: int) -> Iterator[str]:
        """What is certain once this token is there."""
        if self.state == "words":
            text = self._decoder.push(token)
            yield from [text] if text else []
            return
        if token in self._names:
            self._held += f"{self._decoder.flush()}{_CONTROL}{self._names[token]}"
            self._decoder = TextDecoder(self._tokenizer, self._marks)
        else:
            self._held += self._decoder.push(token)
        self.tokens += 1
        yield from self._read()
        if not self._thought:
            self.tokens = 0

    def flush(self) -> Iterator[str]:
        """What was held back."""
        text, self._held = self._plain(self._held + self._decoder.flush()), ""
        kind = Thought if self.state == "thought" else str
        yield from [kind(text)] if text else []

    def _read(self) -> Iterator[str]:
        if self.state == "before":
            text = self._held.lstrip()
            if text.startswith(self._begin):
                self.state, self._thought, self._held = "thought", True, text[len(self._begin) :]
            elif not self._begin.startswith(text):
                self.state = "words"
        if self.state == "thought":
            thought, end, rest = self._held.partition(self._end)
            sure = len(thought) - (0 if end else partial_stop(thought, (self._end,)))
            self.state, self._held = "words" if end else "thought", thought[sure:] + rest
            yield from map(Thought, filter(None, [self._plain(thought[:sure])]))
        if self.state == "words" and self._held:
            text, self._held = self._plain(self._held), ""
            yield from filter(None, [text])

    def _mark(self, mark: str) -> str:
        """A mark as it comes: the names of control tokens in it are told from the same letters."""
        added = self._tokenizer.added_tokens_decoder
        parts = []
        for token in self._tokenizer.encode(mark, add_special_tokens=False):
            if token in added:
                self._names[token] = str(added[token])
            parts.append(f"{_CONTROL}{added[token]}" if token in added else self._tokenizer.decode([token]))
        return "".join(parts) if self._names else mark

    def _plain(self, text: str) -> str:
        """Text without special tokens; of others that are no mark here, the names stay."""
        for token, name in self._names.items() if _CONTROL in text else ():
            shown = "" if self._tokenizer.added_tokens_decoder[token].special else name
            text = text.replace(f"{_CONTROL}{name}", shown)
        return text


class ThoughtMatcher:
    """Lets a thought come before a grammar's text, and ends it in time for that.

    A thought takes three quarters of the room at most, and leaves what the shortest text of the grammar needs. Without
    a grammar, all but `spare` tokens.

    Args:
        matcher: the way through the grammar, which begins behind the thought; None: what comes is free.
        room: how many tokens may come.
        end_ids: tokens that end a text: none comes within a thought that a grammar's text is to follow.

    Attributes:
        As of `Matcher`.
    """

    def __init__(
        self,
        tokenizer: Any,
        thinking: Thinking,
        matcher: Matcher | None,
        vocabulary: int,
        room: int,
        end_ids: frozenset[int] = frozenset(),
        spare: int = 0,
    ) -> None:
        self._tokenizer, self._inner, self._left = tokenizer, matcher, room
        self._reader = ThoughtReader(tokenizer, thinking)
        self._begin, self._close = (
            tokenizer.encode(mark, add_special_tokens=False) for mark in (thinking.begin, thinking.end)
        )
        self._end_ids = end_ids - set(self._close)
        kept = min(spare, room // 2) if matcher is None else max(matcher.least(room), room // 4)
        self._least = kept + len(self._close)
        self._ahead: list[int] = []  # tokens that have to come
        self.words = (vocabulary + 31) // 32 if matcher is None else matcher.words
        self._over()

    @property
    def finished(self) -> bool:
        """Whether no more may come."""
        return self._reader.state == "words" and self._inner is not None and self._inner.finished

    @property
    def whole(self) -> bool:
        """Whether the grammar's text came to its end by itself."""
        return self._reader.state == "words" and self._inner is not None and self._inner.whole

    @property
    def idle(self) -> bool:
        """Whether anything may come next."""
        return self._inner is None and not self._ahead

    def mask(self, logits: Tensor) -> Tensor:
        """Logits (1, vocabulary) with -inf for every token that may not come next."""
        return mask_rows(logits, [self])

    def fill(self, words: Tensor) -> None:
        """As `Matcher.fill`."""
        if self._ahead:
            words.zero_()
            _allow(words, self._ahead[0])
        elif self._inner is None:
            words.fill_(-1)
        elif self._reader.state == "thought":
            words.fill_(-1)
            for token in self._end_ids:
                words[token // 32] &= ~BITS[token % 32]
        else:
            self._inner.fill(words)
            if self._reader.state == "before":
                _allow(words, self._begin[0])

    def accept(self, token: int) -> None:
        """As `Matcher.accept`."""
        state, forced = self._reader.state, bool(self._ahead)
        self._left -= 1
        if state == "words":
            self._follow([token])
            return
        pieces = list(self._reader.push(token))
        if forced:
            self._ahead.pop(0)
        elif state == "before" and self._inner is not None:
            if token != self._begin[0]:  # the grammar's text begins at once
                self._reader.state = "words"
                self._follow([token])
            elif self._reader.state == "before":
                self._ahead = self._begin[1:]
        if state == "thought" and self._reader.state == "words":
            self._answer("".join(piece for piece in pieces if not isinstance(piece, Thought)).strip())
        self._over()

    def _answer(self, begun: str) -> None:
        """The thought is over, and this much came in the same token."""
        self._ahead = []
        if self._inner is not None:
            self._inner.limit(self._left)
            self._follow(self._tokenizer.encode(begun, add_special_tokens=False) if begun else [])

    def _follow(self, tokens: list[int]) -> None:
        for token in tokens if self._inner is not None else ():
            self._inner.accept(token)  # type: ignore[union-attr]

    def _over(self) -> None:
        """End the thought where what comes after it needs the room that is left."""
        if self._reader.state == "thought" and not self._ahead and self._left <= self._least:
            self._ahead = list(self._close)


def _allow(words: Tensor, token: int) -> None:
    words[token // 32] |= BITS[token % 32]
