"""TokenCache: what tokenizing texts gave, kept by their content: a text that comes again is not tokenized again."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from homer.base.buffers import over
from homer.base.locks import Lock
from homer.base.recent import Recent

ROW = 12  # bytes of a token: its id, its first and its end character, 32 bits each
_BESIDES = 150  # bytes that an entry takes beside its rows


class TokenCache:
    """Rows of tokens by a key, those used last, up to so many bytes; may be used by several threads at once."""

    def __init__(self, limit: int) -> None:
        self._rows: Recent[bytes, bytes] = Recent(limit, lambda rows: len(rows) + _BESIDES)
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._rows.held

    def find(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The rows of those keys that are here."""
        with self._lock:
            return {key: rows for key in keys if (rows := self._rows.get(key)) is not None}

    def put(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep rows by their keys; those that were not used for the longest time leave."""
        with self._lock:
            for key, rows in entries:
                self._rows.put(key, rows)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._rows.clear()


TOKENS = TokenCache(1 << 26)  # of all tokenizers: about five million tokens


def pack(ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> bytes:
    """Token ids with the characters of each as bytes, in which Python's garbage collector finds no objects."""
    rows, edges = array("i", bytes(ROW * len(ids))), array("i", itertools.chain.from_iterable(offsets))
    rows[0::3], rows[1::3], rows[2::3] = array("i", ids), edges[0::2], edges[1::2]
    return rows.tobytes()


def unpack(packed: Sequence[bytes]) -> Tensor:
    """All rows of several texts, one text after the other: (tokens, 3), int64."""
    return over(bytearray().join(packed), torch.int32).view(-1, 3).long()
