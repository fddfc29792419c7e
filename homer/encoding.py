"""Text to token ids, so that text from outside can never become a control token.

A tokenizer turns `</s>` or `<|assistant|>` in a document into the control token of that name. Here such
text is cut inside the name and the parts are encoded by themselves: the same characters, as plain text.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from homer.errors import InputError

_BRACKETED = re.compile(r"[\[<{(|#]\S+[\]>})|#]")
_LOCK = threading.Lock()  # fast tokenizers are not safe for two threads at once


class Piece(NamedTuple):
    """A piece of a prompt; `trusted` pieces come from the chat template and may hold control tokens."""

    text: str
    trusted: bool = False


class Encoded(NamedTuple):
    """Token ids, and (start, end) of each token in the joined text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Encoder:
    """A tokenizer that knows which of its tokens are control tokens.

    Args:
        tokenizer: a fast tokenizer of transformers.
        markers: more text that marks turns, as `[/INST]` does in templates without control tokens.
        tick: called now and then while much is encoded; what it raises ends the work.
    """

    def __init__(self, tokenizer: Any, markers: Iterable[str] = (), tick: Callable[[], None] = lambda: None) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"{type(tokenizer).__name__} gives no character offsets: load the model's fast tokenizer, "
                f"or tokenize yourself and call compress"
            )
        self.tokenizer, self._tick = tokenizer, tick
        added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
        self.control_ids = frozenset(added) | frozenset(tokenizer.all_special_ids)
        names = sorted({*added.values(), *markers}, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, names))) if names else None

    def encode(self, *pieces: Piece) -> Encoded:
        """Encode pieces as one text, in which only trusted pieces can hold control tokens."""
        text = "".join(piece.text for piece in pieces)
        untrusted = _untrusted_spans(pieces)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, end in self._fragments(text, 0, len(text), untrusted):
            fragment_ids, fragment_offsets = self._tokenize(text[start:end])
            ids += fragment_ids
            offsets += [(a + start, b + start) for a, b in fragment_offsets]
        return Encoded(ids, offsets)

    def leading_ids(self) -> list[int]:
        """The control tokens that the tokenizer itself puts before a text, such as a BOS."""
        with _LOCK:
            whole: list[int] = self.tokenizer("a")["input_ids"]
            plain: list[int] = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return whole[: whole.index(plain[0])] if plain and plain[0] in whole else []

    def _fragments(
        self, text: str, start: int, end: int, untrusted: list[tuple[int, int]]
    ) -> Iterable[tuple[int, int]]:
        """Spans of text[start:end] to encode by themselves, in order."""
        cut = self._cut(text, start, end, untrusted)
        if cut is None:
            return [(start, end)] if end > start else []
        left = self._fragments(text, start, cut, untrusted)
        return [*left, *self._fragments(text, cut, end, untrusted)]

    def _cut(self, text: str, start: int, end: int, untrusted: list[tuple[int, int]]) -> int | None:
        """Where to cut text[start:end] so that its first untrusted control token is none; None if it has none."""
        if self._control is not None:
            for match in self._control.finditer(text, start, end):
                if _overlaps(match.span(), untrusted):
                    return _middle(*match.span(), text)
        if not untrusted:
            return None
        ids, offsets = self._tokenize(text[start:end])
        for token, (a, b) in zip(ids, offsets, strict=True):
            if token in self.control_ids and _overlaps((start + a, start + b), untrusted):
                return _middle(start + a, start + b, text)
        return None

    def _tokenize(self, text: str) -> Encoded:
        self._tick()
        with _LOCK:
            output = self.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
            )
        return Encoded(output["input_ids"], output["offset_mapping"])


def template_markers(literals: Iterable[str]) -> set[str]:
    """Bracketed words, such as `[/INST]`, in the fixed text of a chat template."""
    return {word for literal in literals for word in _BRACKETED.findall(literal)}


def _untrusted_spans(pieces: Iterable[Piece]) -> list[tuple[int, int]]:
    spans, start = [], 0
    for piece in pieces:
        end = start + len(piece.text)
        if not piece.trusted and end > start:
            spans.append((start, end))
        start = end
    return spans


def _overlaps(span: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)


def _middle(start: int, end: int, text: str) -> int:
    if end - start < 2:
        raise InputError(
            f"the character {text[start:end]!r} at {start} is a control token of this tokenizer and cannot be "
            f"given as text: remove it"
        )
    return (start + end) // 2
