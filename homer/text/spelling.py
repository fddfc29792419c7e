"""Spelling: what each token adds to a text, as characters and as bytes, whatever kind of tokenizer it is of."""

from __future__ import annotations

import functools
import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # as tokenizers of sentence pieces write a single byte
_UNKNOWN = "\ufffd"
_BEFORE = "a"  # some tokenizers drop a space at the head of a text, so that tokens are decoded behind this


class Spelling:
    """The text of single tokens. Any thread may ask.

    Args:
        tokenizer: of transformers; None, where only ids are known, spells every token as nothing.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.of = functools.lru_cache(maxsize=1 << 14)(self._spell)

    def _spell(self, token: int) -> bytes:
        """The bytes that a token adds to a text. Tokens that hold a part of a character are told by their bytes."""
        if self._tokenizer is None:
            return b""
        written = self._tokenizer.convert_ids_to_tokens(token)
        if written is None:  # the vocabulary is padded
            return b""
        if token in self._added:
            return str(written).encode()
        single = _BYTE.fullmatch(written)
        text = self._text(token)
        if single and text in (_UNKNOWN, chr(int(single[1], 16))):
            return bytes([int(single[1], 16)])
        if _UNKNOWN in text and all(letter in _byte_letters() for letter in written):
            return bytes(_byte_letters()[letter] for letter in written)
        return text.encode()

    @functools.cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(getattr(self._tokenizer, "added_tokens_decoder", ()))

    @functools.cached_property
    def _head(self) -> tuple[list[int], str]:
        ids = list(self._tokenizer(_BEFORE, add_special_tokens=False)["input_ids"])
        return ids, self._decode(ids)

    def _text(self, token: int) -> str:
        ids, head = self._head
        return self._decode([*ids, token]).removeprefix(head)

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


@functools.cache
def _byte_letters() -> dict[str, int]:
    """The letter that tokenizers of bytes write for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + n): byte for n, byte in enumerate(others)}
