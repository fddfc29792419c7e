"""Text to token ids, so that text from outside can never become a control token.

A tokenizer turns `</s>` or `<|assistant|>` in a document into the control token of that name. Here such
text is cut inside the name and the parts are encoded by themselves: the same characters, as plain text.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from homer.base.arguments import replace_surrogates
from homer.base.locks import Lock
from homer.errors import InputError

_BRACKETED = re.compile(r"[\[<{(|#]\S+[\]>})|#]")
_LOCK = Lock()  # while one thread changes a fast tokenizer, none other may
_TEXTS_AT_ONCE, _CHARACTERS_AT_ONCE = 256, 1 << 16

Span = tuple[int, int]


class Piece(NamedTuple):
    """A piece of a prompt; `trusted` pieces come from the chat template and may hold control tokens."""

    text: str
    trusted: bool = False


class Encoded(NamedTuple):
    """Token ids, and (start, end) of each token in the joined text."""

    ids: list[int]
    offsets: list[Span]


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
        with _LOCK:  # turns truncation and padding off; calls that find them so change nothing, and need no lock
            self._tokenize_now([""])

    def encode(self, *pieces: Piece) -> Encoded:
        """Encode pieces as one text, in which only trusted pieces can hold control tokens."""
        return self.encode_all([pieces])[0]

    def encode_all(self, texts: Sequence[Sequence[Piece]]) -> list[Encoded]:
        """As `encode`, for many texts, each of them given as its pieces."""
        cutters = [_Cutter(pieces, self._control, self.control_ids) for pieces in texts]
        whole = [[(0, len(cutter.text))] for cutter in cutters]
        parts: list[list[tuple[int, Encoded]]] = [[] for _ in texts]
        while any(whole):
            spans = [(number, span) for number, cutter in enumerate(cutters) for span in cutter.cut(whole[number])]
            whole = [[] for _ in texts]
            fragments = (cutters[number].text[start:end] for number, (start, end) in spans)
            for (number, span), encoded in zip(spans, self._tokenize(fragments), strict=True):
                cuts = cutters[number].cuts_of_made(encoded, span)
                if cuts:
                    whole[number] += _cut_at(span, cuts)
                else:
                    parts[number].append((span[0], encoded))
        return [_join(fragments) for fragments in parts]

    def leading_ids(self) -> list[int]:
        """The control tokens that the tokenizer itself puts before a text, such as a BOS."""
        whole: list[int] = self.tokenizer("a")["input_ids"]
        plain: list[int] = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return whole[: whole.index(plain[0])] if plain and plain[0] in whole else []

    def _tokenize(self, texts: Iterable[str]) -> Iterator[Encoded]:
        """Every text by itself, as many at once as are soon done."""
        batch: list[str] = []
        length = 0
        for text in texts:
            if batch and (len(batch) == _TEXTS_AT_ONCE or length + len(text) > _CHARACTERS_AT_ONCE):
                yield from self._tokenize_now(batch)
                self._tick()
                batch, length = [], 0
            batch.append(text)
            length += len(text)
        if batch:
            yield from self._tokenize_now(batch)
            self._tick()

    def _tokenize_now(self, texts: list[str]) -> Iterator[Encoded]:
        output = self.tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        return map(Encoded, output["input_ids"], output["offset_mapping"])


class _Cutter:
    """Cuts one text so that its untrusted pieces hold no control token."""

    def __init__(self, pieces: Sequence[Piece], control: re.Pattern[str] | None, control_ids: frozenset[int]) -> None:
        self.text = replace_surrogates("".join(piece.text for piece in pieces))
        self._control, self._control_ids = control, control_ids
        borders = list(itertools.accumulate((len(piece.text) for piece in pieces), initial=0))
        spans = zip(pieces, itertools.pairwise(borders), strict=True)
        untrusted = [(start, end) for piece, (start, end) in spans if start < end and not piece.trusted]
        self._starts, self._ends = [start for start, _ in untrusted], [end for _, end in untrusted]

    def cut(self, spans: Iterable[Span]) -> list[Span]:
        """Parts of spans of the text, in order, none of which holds the name of a control token."""
        done: list[Span] = []
        waiting = list(spans)[::-1]
        while waiting:
            span = waiting.pop()
            cuts = self._cuts_of_names(span)
            if cuts:
                waiting += _cut_at(span, cuts)[::-1]
            elif span[0] < span[1]:
                done.append(span)
        return done

    def cuts_of_made(self, encoded: Encoded, span: Span) -> list[int]:
        """Where to cut a span since its tokens hold control tokens whose names are not in the text.

        A normalizer may make them of other characters.
        """
        if not self._starts or self._control_ids.isdisjoint(encoded.ids):
            return []
        places = ((a + span[0], b + span[0]) for a, b in encoded.offsets)
        found = (place for token, place in zip(encoded.ids, places, strict=True) if token in self._control_ids)
        return sorted({self._middle(place) for place in found if self._is_untrusted(place)})

    def _cuts_of_names(self, span: Span) -> list[int]:
        if self._control is None or not self._starts:
            return []
        found = (match.span() for match in self._control.finditer(self.text, *span))
        return [self._middle(place) for place in found if self._is_untrusted(place)]

    def _is_untrusted(self, place: Span) -> bool:
        """Whether a place overlaps an untrusted piece."""
        first = bisect.bisect_right(self._ends, place[0])
        return first < len(self._starts) and self._starts[first] < place[1]

    def _middle(self, place: Span) -> int:
        start, end = place
        if end - start < 2:
            raise InputError(
                f"the character {self.text[start:end]!r} at {start} is a control token of this tokenizer and cannot be "
                f"given as text: remove it"
            )
        return (start + end) // 2


def template_markers(literals: Iterable[str]) -> set[str]:
    """Bracketed words, such as `[/INST]`, in the fixed text of a chat template."""
    return {word for literal in literals for word in _BRACKETED.findall(literal)}


def _cut_at(span: Span, cuts: Sequence[int]) -> list[Span]:
    return list(itertools.pairwise([span[0], *cuts, span[1]]))


def _join(fragments: list[tuple[int, Encoded]]) -> Encoded:
    """Fragments, each with its start in the text, as one."""
    joined = Encoded([], [])
    for start, encoded in sorted(fragments, key=lambda fragment: fragment[0]):
        joined.ids.extend(encoded.ids)
        joined.offsets.extend([(a + start, b + start) for a, b in encoded.offsets])
    return joined
