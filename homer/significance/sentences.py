"""Sentences of token ids: where one ends, told from the tokens alone, so that sentences can survive whole."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch import Tensor

from homer.text.ends import STOPS, WIDE

PASSAGE = 160  # tokens, after which the next sentence begins another passage
LONGEST = 64  # tokens; what has no end, such as a table, is cut there, so that it cannot take all of the budget

_MAY_END = re.compile(rf"[.!?{STOPS}][\"'\u201d\u2019)\]*_]*$")
_ENDS = re.compile(rf"[{WIDE}]$|\n\s*$")
_LINE_END = re.compile(r"\n[ \t]*$")
_STARTS = re.compile(r"^[\s▁ĠĊ<\[]")


class Sentences:
    """Finds sentences by a table of what every token of a tokenizer is."""

    def __init__(self, tokenizer: Any) -> None:
        texts, pieces = vocabulary(tokenizer)
        self._ends = torch.tensor([bool(_ENDS.search(text)) for text in texts])
        self._ends_line = torch.tensor([bool(_LINE_END.search(text)) for text in texts])
        self._breaks = torch.tensor([text[:1] == "\n" for text in texts])
        self._blank = torch.tensor([text.count("\n") > 1 and bool(_LINE_END.search(text)) for text in texts])
        self._may_end = torch.tensor([bool(_MAY_END.search(text)) for text in texts])
        self._starts = torch.tensor([bool(_STARTS.search(piece)) for piece in pieces])

    def number(self, ids: Tensor) -> Tensor:
        """(tokens,) ids -> (tokens,), the number of the sentence that each is in, counted from 0.

        A full stop ends one where white space follows, so that 3.5 stays whole; a line break always does.
        """
        return self.parts(ids)[0]

    def parts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens,) ids -> the numbers of sentences and of passages, (tokens,) each, counted from 0.

        A passage ends with a sentence: at a blank line, or once it is long.
        """
        known = ids.cpu().clamp(max=len(self._ends) - 1)
        starts_next = torch.cat([self._starts[known[1:]], torch.ones(1, dtype=torch.bool)])
        breaks_next = torch.cat([self._breaks[known[1:]], torch.ones(1, dtype=torch.bool)])
        ends = self._ends[known] | self._may_end[known] & starts_next
        ends &= ~breaks_next  # a line break ends what stands before it, and several in a row are one end
        first = _cut(_after(ends), LONGEST)
        sentences = first.long().cumsum(0) - 1
        blank = self._blank[known] | self._breaks[known] & _after(self._ends_line[known])
        passages = _after(blank & ends) & first
        return sentences, _longest(passages, first).long().cumsum(0) - 1


def number_parts(tokenizer: Any, ids: Tensor) -> tuple[Tensor, Tensor] | None:
    """What `Sentences.parts` gives; None without a tokenizer. The table of a tokenizer is made once."""
    return None if tokenizer is None else _sentences(tokenizer).parts(ids)


@functools.lru_cache(maxsize=8)
def vocabulary(tokenizer: Any) -> tuple[list[str], list[str]]:
    """What every token of a tokenizer reads by itself, and its name; a number without a token counts as a space."""
    numbers = list(range(len(tokenizer)))
    pieces = [" " if piece is None else piece for piece in tokenizer.convert_ids_to_tokens(numbers)]
    return tokenizer.batch_decode([[number] for number in numbers]), pieces


def _after(marks: Tensor) -> Tensor:
    """Marks (n,) moved on by one token; the first is marked."""
    return torch.cat([torch.ones(1, dtype=torch.bool), marks[:-1]])


def _since(first: Tensor) -> Tensor:
    """(n,), how many tokens ago the last mark was."""
    index = torch.arange(len(first))
    return index - torch.where(first, index, 0).cummax(0).values


def _cut(first: Tensor, longest: int) -> Tensor:
    """The marks and more, so that no part is longer."""
    since = _since(first)
    return first | (since > 0) & (since % longest == 0)


def _longest(passages: Tensor, sentences: Tensor) -> Tensor:
    """The marks of passages and more, at the first sentence behind every `PASSAGE` tokens of one."""
    due = _since(passages) // PASSAGE
    # the first sentence of every stretch of that length: where the count of stretches differs from the last sentence's
    starts = sentences.nonzero().flatten()
    counts = due[starts]
    grown = torch.cat([torch.zeros(1, dtype=torch.bool), counts[1:] > counts[:-1]])
    more = passages.clone()
    more[starts[grown]] = True
    return more


@functools.lru_cache(maxsize=8)
def _sentences(tokenizer: Any) -> Sentences:
    return Sentences(tokenizer)
