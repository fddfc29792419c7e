"""Sentences of token ids: where one ends, told from the tokens alone, so that sentences can survive whole."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch import Tensor

LONGEST = 64  # tokens; what has no end, such as a table, is cut there, so that it cannot take all of the budget

_MAY_END = re.compile(r"[.!?][\"'\u201d\u2019)\]*_]*$")
_ENDS = re.compile(r"[\u3002\uff01\uff1f]$|\n\s*$")  # the full stops of Chinese and Japanese
_STARTS = re.compile(r"^[\s▁ĠĊ<\[]")


class Sentences:
    """Finds sentences by a table of what every token of a tokenizer is."""

    def __init__(self, tokenizer: Any) -> None:
        size = len(tokenizer)
        texts = tokenizer.batch_decode([[i] for i in range(size)])
        pieces = tokenizer.convert_ids_to_tokens(list(range(size)))
        self._ends = torch.tensor([bool(_ENDS.search(text)) for text in texts])
        self._may_end = torch.tensor([bool(_MAY_END.search(text)) for text in texts])
        self._starts = torch.tensor([bool(_STARTS.search(piece or " ")) for piece in pieces])

    def number(self, ids: Tensor) -> Tensor:
        """(tokens,) ids -> (tokens,), the number of the sentence that each is in, counted from 0.

        A full stop ends one where white space follows, so that 3.5 stays whole; a line break always does.
        """
        known = ids.cpu().clamp(max=len(self._ends) - 1)
        starts_next = torch.cat([self._starts[known[1:]], torch.ones(1, dtype=torch.bool)])
        ends = self._ends[known] | self._may_end[known] & starts_next
        first = torch.cat([torch.ones(1, dtype=torch.bool), ends[:-1]])
        place = torch.arange(len(known))
        since = place - torch.where(first, place, 0).cummax(0).values
        first |= (since > 0) & (since % LONGEST == 0)
        return first.long().cumsum(0) - 1


def number_sentences(tokenizer: Any, ids: Tensor) -> Tensor | None:
    """What `Sentences.number` gives; None without a tokenizer. The table of a tokenizer is made once."""
    return None if tokenizer is None else _sentences(tokenizer).number(ids)


@functools.lru_cache(maxsize=8)
def _sentences(tokenizer: Any) -> Sentences:
    return Sentences(tokenizer)
