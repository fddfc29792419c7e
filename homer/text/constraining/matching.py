"""Grammars compiled for one tokenizer, and one request's way through them, token by token."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from homer.base.locks import Lock
from homer.base.recent import Recent
from homer.errors import GenerationError
from homer.text.constraining.closing import Closer
from homer.text.constraining.grammar import Grammar, library

_WATCHED = 64  # the last tokens of a text, before each of which the way to its end is looked for
_SPARE = 8  # by how much one token may make it longer
BITS = [1 << bit for bit in range(31)] + [-(1 << 31)]  # of 32 tokens, as int32
_KEPT = 64  # compiled grammars; a few hundred kB each


class Guide(Protocol):
    """What says, step by step, which tokens may come next: the way through a grammar, or through a thought before it.

    Attributes:
        words: how many words of 32 tokens `fill` writes.
        finished: whether no more may come.
        whole: whether the text came to its end by itself.
        idle: whether any token may come next.
    """

    words: int

    @property
    def finished(self) -> bool:
        """As above."""

    @property
    def whole(self) -> bool:
        """As above."""

    @property
    def idle(self) -> bool:
        """As above."""

    def mask(self, logits: Tensor) -> Tensor:
        """Logits (1, vocabulary) with -inf for every token that may not come next."""

    def fill(self, words: Tensor) -> None:
        """Write the tokens that may come next into words (vocabulary / 32,) of int32, a bit each, on the CPU."""

    def accept(self, token: int) -> None:
        """Go on by a token. Raises GenerationError where it is none of those that may come."""


class Grammars:
    """Grammars compiled for one tokenizer and vocabulary; the 64 used last are kept. Any thread may ask.

    Args:
        tokenizer: a fast tokenizer of transformers.
        vocabulary: width of the logits.
        end_ids: tokens that end a text.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, end_ids: Iterable[int]) -> None:
        self._tokenizer, self._vocabulary, self._end_ids = tokenizer, vocabulary, sorted(end_ids)
        self._lock = Lock()
        self._tokens: Any = None
        self._closer: Closer | None = None
        self._compiled: Recent[Grammar, Any] = Recent(_KEPT)

    def matcher(self, grammar: Grammar, room: int | None = None) -> Matcher:
        """A new way through a grammar, from its beginning.

        Args:
            room: how many tokens may come; where it gets short, the text is brought to an end. None: any number.

        Raises:
            GenerationError: a tokenizer or a grammar that cannot be used, or a missing package.
        """
        with self._lock:
            compiled = self._compiled.get(grammar)
            if compiled is None:
                compiled = self._compile(grammar)
                self._compiled.put(grammar, compiled)
            return Matcher(compiled.deep_copy(), self._tokens.vocab_size, self._closer, room)

    def _compile(self, grammar: Grammar) -> Any:
        if self._tokens is None:
            self._tokens = self._read_tokenizer()
            self._closer = Closer(self._tokens)
        compiled = library().LLMatcher(self._tokens, grammar.source, log_level=0)
        if compiled.is_error():
            raise GenerationError(f"this grammar cannot be used ({compiled.get_error()}): make it simpler")
        return compiled

    def _read_tokenizer(self) -> Any:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            kind = "no tokenizer" if self._tokenizer is None else type(self._tokenizer).__name__
            raise GenerationError(f"a grammar needs the model's fast tokenizer, and here is {kind}: load that")
        backend = copy.copy(backend)  # the user's own keeps its padding
        backend.no_padding()
        backend.no_truncation()
        try:
            return library().LLTokenizer(
                with_one_decoder(backend.to_str()),
                n_vocab=max(self._vocabulary, len(self._tokenizer)),
                eos_token=self._end_ids or None,
            )
        except ValueError as error:
            raise GenerationError(
                f"a grammar cannot be used with this tokenizer ({error}): use a model with a byte-level one"
            ) from None


def with_one_decoder(tokenizer: str) -> str:
    """A tokenizer's JSON in which letters stand for bytes in one way.

    Tokenizers read from GGUF files by some versions of transformers decode both ways in which letters may stand for
    bytes, one after the other. The library of grammars takes the first that it finds, which is not the one by which
    the vocabulary was made, reads "\u0120" where a space is meant, and then holds texts to what they cannot be.
    """
    told = json.loads(tokenizer)
    parts = (told.get("decoder") or {}).get("decoders", [])
    by_bytes = [part for part in parts if part["type"] == "ByteLevel"]
    if by_bytes and any(part["type"] == "ByteFallback" for part in parts):
        told["decoder"] = by_bytes[0]
        return json.dumps(told)
    return tokenizer


class Matcher:
    """One text on its way through a grammar; used by one thread at a time.

    Once little room is left, it allows what brings the text to an end and nothing else: strings are cut, but what is
    open is closed. Where that takes more than there is, the text stays cut.

    Attributes:
        As of `Guide`.
    """

    idle = False

    def __init__(self, compiled: Any, vocabulary: int, closer: Closer | None = None, room: int | None = None) -> None:
        self._compiled, self._closer, self._left = compiled, closer, room
        self._closing: list[int] | None = None  # what is still to come where the text is brought to an end
        self.words = (vocabulary + 31) // 32
        self.finished = False

    @property
    def whole(self) -> bool:
        """Whether the text came to its end by itself."""
        return self.finished and self._closing is None

    def least(self, room: int) -> int:
        """How many tokens a short text takes, with a few to spare; `room` where it takes more than that."""
        way = [] if self._closer is None else self._closer.way(self._compiled, room)
        return room if way is None else len(way) + _SPARE

    def limit(self, room: int) -> None:
        """Only so many tokens may come from here on."""
        self._left = room

    def mask(self, logits: Tensor) -> Tensor:
        """Logits (1, vocabulary) with -inf for every token that may not come next."""
        return mask_rows(logits, [self])

    def accept(self, token: int) -> None:
        """Go on by a token.

        Raises:
            GenerationError: the grammar does not allow it, or has become too much to follow.
        """
        if not self._compiled.consume_token(token):
            raise GenerationError(f"token {token} does not go on as the grammar wants ({self._compiled.get_error()})")
        self.finished = self._compiled.is_stopped()
        self._left = None if self._left is None else self._left - 1
        if self._closing:
            self._closing.pop(0)
            self.finished = self.finished or not self._closing

    def fill(self, words: Tensor) -> None:
        """Write the tokens that may come next into words (vocabulary / 32,) of int32, a bit each, on the CPU.

        Where the grammar has become too much to follow, the next `accept` says so: others share the step.
        """
        if self._closing is None and self._left is not None and self._left <= _WATCHED:
            self._close()
        if self._closing:
            words.zero_()
            words[self._closing[0] // 32] = BITS[self._closing[0] % 32]
        else:
            self._compiled.unsafe_compute_mask_ptr(words.data_ptr(), words.numel() * words.element_size())

    def _close(self) -> None:
        """Begin to end the text where what that takes is nearly all the room there is."""
        left = self._left or 0
        way = None if self._closer is None else self._closer.way(self._compiled, left)
        if way and len(way) + _SPARE >= left:
            self._closing = way


def mask_rows(logits: Tensor, matchers: Sequence[Guide | None]) -> Tensor:
    """Logits (rows, vocabulary) with -inf for what each row's grammar does not allow; None: all is.

    One copy to the device and few kernels, however many rows there are.
    """
    matchers = [None if matcher is None or matcher.idle else matcher for matcher in matchers]
    width = next((matcher.words for matcher in matchers if matcher is not None), 0)
    if not width:
        return logits
    on_gpu = logits.device.type == "cuda"
    words = torch.full((len(matchers), width), -1, dtype=torch.int32, pin_memory=on_gpu)
    for row, matcher in zip(words, matchers, strict=True):
        if matcher is not None:
            matcher.fill(row)
    words = words.to(logits.device, non_blocking=on_gpu)
    bits = words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=logits.device)
    forbidden = (bits & 1 == 0).flatten(1)[:, : logits.shape[1]]
    return logits.masked_fill(forbidden, float("-inf"))
