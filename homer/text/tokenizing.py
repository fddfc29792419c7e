"""Text to token ids, so that text from outside can never become a control token.

A tokenizer turns `</s>` or `<|assistant|>` in a document into the control token of that name. Here such
text is cut inside the name and the parts are tokenized by themselves: the same characters, as plain text.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import re
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from homer.base.arguments import replace_surrogates
from homer.base.locks import Lock
from homer.errors import InputError
from homer.text.kept import TOKENS, pack
from homer.text.widths import Widths

_BRACKETED = re.compile(r"[\[<{(|#]\S+[\]>})|#]")
_LOCK = Lock()  # while one thread changes a fast tokenizer, none other may
_TEXTS_AT_ONCE, _CHARACTERS_AT_ONCE = 2048, 1 << 18  # few enough to be done soon, enough for all cores
_SALTS: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()  # one for each tokenizer

Span = tuple[int, int]


class Piece(NamedTuple):
    """A piece of a prompt; `trusted` pieces come from the chat template and may hold control tokens."""

    text: str
    trusted: bool = False


class Tokenized(NamedTuple):
    """Token ids, and (start, end) of each token in the joined text."""

    ids: list[int]
    offsets: list[Span]


class PieceTokenizer:
    """A tokenizer that knows which of its tokens are control tokens.

    Args:
        tokenizer: a fast tokenizer of transformers.
        markers: more text that marks turns, as `[/INST]` does in templates without control tokens.
        tick: called now and then while much is tokenized; what it raises ends the work.
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
            tokenizer([""], add_special_tokens=False, verbose=False)
            salt = _SALTS.setdefault(tokenizer, secrets.token_bytes(16))
        kind, plain = type(tokenizer), PreTrainedTokenizerFast
        self._direct = kind.__call__ is plain.__call__ and kind._encode_plus is plain._encode_plus
        self._widths = Widths.of(tokenizer, self.control_ids) if self._direct else None
        self._salt = hashlib.sha256(salt + _state(tokenizer, (*names, *sorted(self.control_ids)))).digest()

    def tokenize(self, *pieces: Piece) -> Tokenized:
        """Tokenize pieces as one text, in which only trusted pieces can hold control tokens."""
        return self.tokenize_all([pieces])[0]

    def tokenize_all(self, texts: Sequence[Sequence[Piece]]) -> list[Tokenized]:
        """As `tokenize`, for many texts, each of them given as its pieces."""
        cutters = [_Cutter(pieces, self._control, self.control_ids) for pieces in texts]
        whole = [[(0, len(cutter.text))] for cutter in cutters]
        parts: list[list[tuple[int, Tokenized]]] = [[] for _ in texts]
        while any(whole):
            spans = [(number, span) for number, cutter in enumerate(cutters) for span in cutter.cut(whole[number])]
            whole = [[] for _ in texts]
            fragments = (cutters[number].text[start:end] for number, (start, end) in spans)
            for (number, span), made in zip(spans, self._each(fragments), strict=True):
                cuts = cutters[number].cuts_of_made(made, span)
                if cuts:
                    whole[number] += _cut_at(span, cuts)
                else:
                    parts[number].append((span[0], made))
        return [_join(fragments) for fragments in parts]

    def tokenize_texts(self, texts: Iterable[str]) -> list[bytes]:
        """Texts from outside as rows of tokens (see `unpack`), each by itself; kept for when they come again."""
        texts = [replace_surrogates(text) for text in texts]
        keys = [hashlib.sha256(self._salt + text.encode()).digest() for text in texts]
        known = TOKENS.find(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        new = dict(zip(missing, self._rows(list(missing.values())), strict=True))
        TOKENS.put(new.items())
        known |= new
        return [known[key] for key in keys]

    def leading_ids(self) -> list[int]:
        """The control tokens that the tokenizer itself puts before a text, such as a BOS."""
        whole: list[int] = self.tokenizer("a")["input_ids"]
        plain: list[int] = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return whole[: whole.index(plain[0])] if plain and plain[0] in whole else []

    def _rows(self, texts: Sequence[str]) -> Iterator[bytes]:
        """Rows of texts; almost none names a control token, and those that do are cut."""
        for batch in _batches(texts):
            named = [not text or (self._control is not None and self._control.search(text)) for text in batch]
            plain = iter(self._plain_rows([text for text, name in zip(batch, named, strict=True) if not name]))
            rows = [None if name else next(plain) for name in named]
            cut = iter(self.tokenize_all([[Piece(text)] for text, row in zip(batch, rows, strict=True) if row is None]))
            yield from (pack(*next(cut)) if row is None else row for row in rows)
            self._tick()

    def _plain_rows(self, texts: list[str]) -> list[bytes | None]:
        """Rows of texts that name no control token; None of one whose tokens are for another way to tell."""
        if self._widths is None or not self._is_whole():
            return [self._packed(encoding) for encoding in self._encodings(texts)]
        return self._widths.rows(texts) if texts else []

    def _is_whole(self) -> bool:
        """Whether nobody has turned on anything that takes tokens away or adds some."""
        backend = self.tokenizer.backend_tokenizer
        return self._direct and backend.truncation is None and backend.padding is None

    def _packed(self, encoding: Any) -> bytes | None:
        """The rows of a text; None where a normalizer has made control tokens of it."""
        ids = encoding.ids
        return pack(ids, encoding.offsets) if self.control_ids.isdisjoint(ids) else None

    def _encodings(self, texts: list[str]) -> Sequence[Any]:
        """What tokenizing gives, without the lists that transformers makes of it; they cost more than the tokens."""
        if self._is_whole():
            encodings: Sequence[Any] = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
            return encodings
        return self.tokenizer(texts, add_special_tokens=False, verbose=False).encodings if texts else ()

    def _each(self, texts: Iterable[str]) -> Iterator[Tokenized]:
        """Every text by itself, as many at once as are soon done."""
        for batch in _batches(texts):
            yield from (Tokenized(encoding.ids, encoding.offsets) for encoding in self._encodings(batch))
            self._tick()


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

    def cuts_of_made(self, made: Tokenized, span: Span) -> list[int]:
        """Where to cut a span since its tokens hold control tokens whose names are not in the text.

        A normalizer may make them of other characters.
        """
        if not self._starts or self._control_ids.isdisjoint(made.ids):
            return []
        spans = ((a + span[0], b + span[0]) for a, b in made.offsets)
        found = (each for token, each in zip(made.ids, spans, strict=True) if token in self._control_ids)
        return sorted({self._middle(each) for each in found if self._is_untrusted(each)})

    def _cuts_of_names(self, span: Span) -> list[int]:
        if self._control is None or not self._starts:
            return []
        found = (match.span() for match in self._control.finditer(self.text, *span))
        return [self._middle(each) for each in found if self._is_untrusted(each)]

    def _is_untrusted(self, span: Span) -> bool:
        """Whether a span overlaps an untrusted piece."""
        first = bisect.bisect_right(self._ends, span[0])
        return first < len(self._starts) and self._starts[first] < span[1]

    def _middle(self, span: Span) -> int:
        start, end = span
        if end - start < 2:
            raise InputError(
                f"the character {self.text[start:end]!r} at {start} is a control token of this tokenizer and cannot be "
                f"given as text: remove it"
            )
        return (start + end) // 2


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in order, as many at once as are soon done."""
    batch: list[str] = []
    length = 0
    for text in texts:
        if batch and (len(batch) == _TEXTS_AT_ONCE or length + len(text) > _CHARACTERS_AT_ONCE):
            yield batch
            batch, length = [], 0
        batch.append(text)
        length += len(text)
    if batch:
        yield batch


def _state(tokenizer: Any, control: Sequence[Any]) -> bytes:
    """All that a tokenizer's tokens depend on and that may change while it lives."""
    backend = tokenizer.backend_tokenizer
    parts = backend.normalizer, backend.pre_tokenizer
    try:
        states = [b"" if part is None else part.__getstate__() for part in parts]
    except Exception:  # parts written in Python tell nothing of themselves: nothing is found again
        states = [secrets.token_bytes(16)]
    return b"\0".join([repr((len(tokenizer), *control)).encode(errors="replace"), *states])


def template_markers(literals: Iterable[str]) -> set[str]:
    """Bracketed words, such as `[/INST]`, in the fixed text of a chat template."""
    return {word for literal in literals for word in _BRACKETED.findall(literal)}


def _cut_at(span: Span, cuts: Sequence[int]) -> list[Span]:
    return list(itertools.pairwise([span[0], *cuts, span[1]]))


def _join(fragments: list[tuple[int, Tokenized]]) -> Tokenized:
    """Fragments, each with its start in the text, as one."""
    if len(fragments) == 1 and fragments[0][0] == 0:
        return fragments[0][1]
    joined = Tokenized([], [])
    for start, made in sorted(fragments, key=lambda fragment: fragment[0]):
        joined.ids.extend(made.ids)
        joined.offsets.extend([(a + start, b + start) for a, b in made.offsets])
    return joined
