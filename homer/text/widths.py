"""Widths: where the tokens of a text lie, told by how many bytes each is of.

A tokenizer's own account of it takes longer than all else that stands around its tokens, and of one long text it makes
one core do the work.
"""

from __future__ import annotations

import itertools
import json
import re
import weakref
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homer.base.buffers import longs, over
from homer.base.locks import Lock
from homer.text.kept import ROW, pack

_PIECE = 1 << 14  # characters of a text that is cut, so that all cores take part
_BESIDE = 32  # characters on both sides of a cut that are looked at
_NEVER = -(1 << 40)  # the width of tokens that stand for no bytes of a text
_BORDER = re.compile(r"(?<=\S)(?= [A-Za-z])")  # where tokenizers of bytes begin anew
_SPLITTERS = {"Split", "Digits", "Punctuation", "ByteLevel"}
_PROBE = "It's 1,234.5\n\n  of  \u00e9\u65e5\U0001f642, a\tb \u0301 <x>  \r\n\u2028z"
_LOCK = Lock()
_KNOWN: weakref.WeakKeyDictionary[Any, tuple[object, Widths | None]] = weakref.WeakKeyDictionary()


class Widths:
    """Of a tokenizer each of whose tokens stands for the bytes that follow those of the token before.

    Args:
        backend: of the tokenizers library.
        others: tokens that no text from outside may have.
    """

    def __init__(self, backend: Any, others: frozenset[int]) -> None:
        self._backend = backend
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._table = torch.full((max(vocabulary.values(), default=0) + 1,), _NEVER)
        self._table[longs(vocabulary.values())] = longs(map(len, vocabulary))
        for number, token in backend.get_added_tokens_decoder().items():  # written out, not a letter a byte
            self._table[number] = len(token.content.encode())
        self._table[[number for number in others if number < len(self._table)]] = _NEVER

    @classmethod
    def of(cls, tokenizer: Any, others: frozenset[int]) -> Widths | None:
        """Of a tokenizer of transformers as it is now; None of one that is not of this kind."""
        state = (len(tokenizer), others, *_parts(tokenizer.backend_tokenizer))
        with _LOCK:
            known = _KNOWN.get(tokenizer)
            if known is None or known[0] != state:
                known = _KNOWN[tokenizer] = (state, cls._made(tokenizer.backend_tokenizer, others))
            return known[1]

    @classmethod
    def _made(cls, backend: Any, others: frozenset[int]) -> Widths | None:
        if not _is_of_bytes(backend):
            return None
        made, (probe,) = cls(backend, others), backend.encode_batch([_PROBE], add_special_tokens=False)
        return made if made.rows([_PROBE]) == [pack(probe.ids, probe.offsets)] else None

    def rows(self, texts: Sequence[str]) -> list[bytes | None]:
        """Rows of every text as in `pack`; None where tokens are not a text's bytes, or not for it to have."""
        cut = [self._pieces(text) for text in texts]
        tokens = [encoding.ids for encoding in self._tokenized(list(itertools.chain.from_iterable(cut)))]
        counts = [len(ids) for ids in tokens]
        if len(tokens) > len(texts):
            lengths = iter(counts)
            counts = [sum(itertools.islice(lengths, len(pieces))) for pieces in cut]
        table, sound = self._laid(texts, array("i", itertools.chain.from_iterable(tokens)), longs(counts))
        rows, edges = table.numpy().tobytes(), [0, *itertools.accumulate(ROW * count for count in counts)]
        return [rows[a:b] if fits else None for (a, b), fits in zip(itertools.pairwise(edges), sound, strict=True)]

    def _laid(self, texts: Sequence[str], tokens: array[int], counts: Tensor) -> tuple[Tensor, list[bool]]:
        """(tokens, 3), int32, rows of texts that have so many tokens each; and which texts' tokens are their bytes."""
        ids, written = over(tokens, torch.int32), [text.encode() for text in texts]
        sizes = longs(map(len, written))
        widths = self._table[ids.long()]
        ends = torch.cat([widths.new_zeros(1), widths.cumsum(0)])  # in bytes of all tokens before
        borders = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        sound = ends[borders].diff() == sizes
        starts = sizes.cumsum(0) - sizes  # in bytes of all texts
        stops = ends[1:] + (starts - ends[borders[:-1]]).repeat_interleave(counts)
        spans = torch.stack([stops - widths, stops], 1)
        if not all(map(bytes.isascii, written)):
            spans, starts = _in_characters(b"".join(written), spans, starts)
        spans = spans - starts.repeat_interleave(counts)[:, None]
        return torch.cat([ids[:, None], spans.int()], 1), sound.tolist()

    def _tokenized(self, texts: list[str]) -> Sequence[Any]:
        encodings: Sequence[Any] = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return encodings

    def _pieces(self, text: str) -> list[str]:
        """A long text cut where its tokens are the same as in the whole, as far as both sides of a cut tell."""
        if len(text) < 2 * _PIECE:
            return [text]
        starts = range(_PIECE, len(text) - _PIECE // 2, _PIECE)
        found = (_BORDER.search(text, start, start + _PIECE) for start in starts)
        cuts = sorted({match.start() for match in found if match})
        sides = [(text[max(0, cut - _BESIDE) : cut], text[cut : cut + _BESIDE]) for cut in cuts]
        encodings = iter(self._tokenized([part for a, b in sides for part in (a, b, a + b)]))
        triples = zip(encodings, encodings, encodings, strict=True)
        edges = [cut for cut, (a, b, whole) in zip(cuts, triples, strict=True) if a.ids + b.ids == whole.ids]
        return [text[a:b] for a, b in itertools.pairwise([0, *edges, len(text)])]


def _in_characters(written: bytes, spans: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Spans (tokens, 2) and starts of texts, in characters in place of bytes; a part of a character counts as it."""
    units = over(bytearray(written), torch.uint8)
    begun = torch.cat([torch.zeros(1, dtype=torch.long), ((units & 0xC0) != 0x80).cumsum(0)])
    first, stop = spans.clamp(0, len(written)).unbind(1)
    return torch.stack([begun[(first + 1).clamp(max=len(written))] - 1, begun[stop]], 1), begun[starts]


def _parts(backend: Any) -> tuple[bytes | None, bytes | None]:
    """What a tokenizer does to a text before it looks up its tokens; nothing of parts that are written in Python."""
    try:
        normalizer, splitter = backend.normalizer, backend.pre_tokenizer
        return _state_of(normalizer), _state_of(splitter)
    except Exception:
        return None, None


def _state_of(part: Any) -> bytes | None:
    """Not by whether it is true: a sequence of no parts is false, and still something."""
    return None if part is None else part.__getstate__()


def _each(state: bytes | None, name: str) -> list[dict[str, Any]]:
    """What a sequence is made of, itself where it is none, nothing where there is nothing."""
    if state is None:
        return []
    facts: dict[str, Any] = json.loads(state)
    return list(facts[name]) if facts["type"] == "Sequence" else [facts]


def _is_of_bytes(backend: Any) -> bool:
    """Whether a tokenizer cuts a text into words, and each of those into bytes, and changes nothing before."""
    normalizer, splitter = _parts(backend)
    if splitter is None or not hasattr(backend, "encode_batch_fast"):
        return False
    parts = _each(splitter, "pretokenizers")
    kinds = [part["type"] for part in parts]
    whole = kinds[-1:] == ["ByteLevel"] and not any(part.get("add_prefix_space") for part in parts)
    words = whole and (parts[-1].get("use_regex", True) or "Split" in kinds)  # what is in one is all that it depends on
    changes = {part["type"] for part in _each(normalizer, "normalizers")}
    return words and changes <= {"NFC"} and _SPLITTERS.issuperset(kinds)  # NFC leaves most texts as they are
