"""Words that a question shares with its context: rare ones tell the passage, whatever the model's heads make of it."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homer.significance.question import runs
from homer.significance.sentences import vocabulary

STEM = 5  # letters by which words are compared, so that forms of one word are one
SATURATION, BY_LENGTH = 1.2, 0.75  # of BM25, as usual: how soon repeating a word tells nothing new, and long texts pay
SENTENCES = 0.5  # the weight of a sentence's own words beside its passage's
MOST_TOLD = 64.0  # nats that all words of a question tell at most: of a long one each counts less

_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]{2,}")  # scripts without spaces


def shared_words(
    tokenizer: Any, ids: Tensor, context: range, question: range, sentences: Tensor, passages: Tensor
) -> Tensor:
    """(length,), float32, how much more likely the question's words make every token's sentence, in nats.

    The BM25 of each passage for the question, and `SENTENCES` times that of each sentence. Its weights of words are
    log-odds of relevance, so the exponential of a share of it is a factor for what attention finds. 0 outside the
    context, and of a question that shares no word.

    Args:
        ids: (length,), of prefix, context and suffix.
        context, question: where these stand in it.
        sentences, passages: (length,), the number of each token's sentence and passage.

    Source: Robertson and Zaragoza, The probabilistic relevance framework: BM25 and beyond, 2009.
    """
    known, sizes = _texts(tokenizer)
    asked = terms(_text(known, ids[question.start : question.stop]))
    told = torch.zeros(len(ids))
    if not asked or not context:
        return told
    inside = slice(context.start, context.stop)
    starts, numbers = _found(_text(known, ids[inside]), asked)
    ends = sizes[ids[inside].clamp(max=len(known) - 1)].cumsum(0)
    tokens = torch.searchsorted(ends, starts, right=True)
    scores = [bm25(runs(groups[inside]), tokens, numbers, len(asked)) for groups in (passages, sentences)]
    told[inside] = scores[0] + SENTENCES * scores[1]
    return told


def bm25(groups: Tensor, tokens: Tensor, terms: Tensor, count: int) -> Tensor:
    """(tokens,), the BM25 of each token's group, in nats, by the words that passages and sentences share.

    Args:
        groups: (tokens,), numbers of groups, counted from 0.
        tokens, terms: (found,) each: the token at which a word of the question stands, and the number of that word.
        count: so many different words the question has.
    """
    number = int(groups[-1]) + 1
    lengths = torch.bincount(groups, minlength=number)
    times = torch.bincount(groups[tokens] * count + terms, minlength=number * count).view(number, count)
    having = (times > 0).sum(0)
    weights = (1 + (number - having + 0.5) / (having + 0.5)).log()
    least = SATURATION * (1 - BY_LENGTH + BY_LENGTH * lengths / lengths.float().mean())
    worth = times * (SATURATION + 1) / (times + least[:, None])
    share = min(1.0, MOST_TOLD / max(float(weights.sum()), 1e-9))
    return (worth @ weights * share).float()[groups]


def terms(question: str) -> list[str]:
    """What is looked for: the different words' beginnings, and pairs of letters of scripts without spaces."""
    found: dict[str, None] = {}
    for word in _WORD.findall(question):
        for run in _UNSPACED.findall(word):
            found.update(dict.fromkeys(run[i : i + 2] for i in range(len(run) - 1)))
        found.update(dict.fromkeys(part[:STEM] for part in _UNSPACED.split(word) if part))
    return list(found)


def _found(text: str, asked: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The characters of a text at which words of the question begin, and which ones they are."""
    number = {term: index for index, term in enumerate(asked)}
    pairs = [re.escape(term) for term in asked if _UNSPACED.fullmatch(term)]
    words = [re.escape(term) for term in asked if not _UNSPACED.fullmatch(term)]
    # where a word begins is asked behind its letters: a pattern that starts with letters is looked for faster
    begun = [rf"{word}(?<=\b{word})" + r"\b" * (len(word) < STEM) for word in words]
    either = [f"(?:{'|'.join(begun)})"] * bool(words) + [f"(?=({'|'.join(pairs)}))"] * bool(pairs)
    matches = re.finditer("|".join(either), text)
    found = [(match.start(), number[match[0] or match[1]]) for match in matches]
    starts, numbers = zip(*found, strict=True) if found else ((), ())
    return torch.tensor(starts, dtype=torch.long), torch.tensor(numbers, dtype=torch.long)


def _text(known: Sequence[str], ids: Tensor) -> str:
    return "".join(map(known.__getitem__, ids.clamp(max=len(known) - 1).tolist()))


@functools.lru_cache(maxsize=8)
def _texts(tokenizer: Any) -> tuple[list[str], Tensor]:
    """What every token of a tokenizer reads, in small letters, and its characters; of a part of one its own name."""
    texts = list(itertools.starmap(_small, zip(*vocabulary(tokenizer), strict=True)))
    return texts, torch.tensor(list(map(len, texts)))


def _small(text: str, piece: str) -> str:
    if "\ufffd" in text:
        return piece.lower()
    starts = piece.startswith("\u2581")  # SentencePiece's space, which a token decoded alone has lost
    return (" " + text if starts and not text.startswith(" ") else text).lower()
