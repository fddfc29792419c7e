"""Citing: what the tokens of an answer look at, by the heads that find what a question asks for."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from homer.backends.base import Decoder
from homer.merging.cache import CompactCache
from homer.model.contexts import ContextModel
from homer.model.parts import unit_numbers
from homer.significance.evidence import QuestionLook
from homer.significance.question import Question, votes
from homer.significance.words import terms
from homer.text.documents import Document
from homer.text.prompt import Prompt
from homer.text.units import Unit, split_units
from homer.view.citations import Citation, Cited

MOST_CITED, _NEARLY = 3, 0.5  # parts a sentence rests on at most, and how near to the best one they must come
WORDS = 2.0  # a part that holds all words of a sentence counts 1 + WORDS times what attention makes of it


class CitingModel(ContextModel):
    """A ContextModel that says what an answer rests on; see `HomerModel`."""

    def cite(self, prompt: Prompt, cache: CompactCache, text: str) -> tuple[Citation, ...]:
        """For each sentence of an answer to a prompt the parts of its documents that it rests on.

        Raises:
            CalibrationError: a model of which it is not known which heads find what is asked for.
            CacheError: a cache that another model made.
        """
        cache.check_made_by(self.decoder.fingerprint, self.name)
        builder = self._builder("cite")
        return cite(self.decoder, self.check_cites(), prompt, cache, text, lambda given: builder.tokenize(given)[0])

    def check_cites(self) -> Mapping[int, tuple[int, ...]]:
        """Layer -> the heads that `cite` goes by; measured where they are not known yet. Raises CalibrationError."""
        return Question().question_heads(self._calibrated(Question()))


def cite(
    decoder: Decoder,
    heads: Mapping[int, tuple[int, ...]],
    prompt: Prompt,
    cache: CompactCache,
    text: str,
    tokenize: Callable[[str], Tensor],
) -> tuple[Citation, ...]:
    """For each sentence of an answer the parts of the documents that its tokens look at most.

    One more pass of the answer over the compact cache, up to the last head that counts; only what survived can be
    cited. An answer says again what stands in the evidence, so the heads that find what is asked for find that too;
    of parts that they look at alike, the one with the sentence's own words counts more.

    Args:
        heads: layer -> heads.
        tokenize: gives the tokens (n, 3) of a text from outside: id, first and end character.
    """
    sentences, tokens = split_units(text), tokenize(text)
    if not len(tokens) or not sentences:
        return ()
    units, numbers = _kept_units(prompt, cache)
    if not units:
        return ()
    shares = _looks(decoder, heads, cache, tokens, sentences)
    lengths = torch.bincount(numbers[numbers >= 0], minlength=len(units))
    words = _Words(prompt, units, lengths)
    found = []
    for sentence, row in zip(sentences, shares, strict=True):
        sums = torch.zeros(len(units)).index_add_(0, numbers[numbers >= 0], row[numbers >= 0])
        worth = sums / lengths.clamp(min=1).sqrt() * (1 + WORDS * words.shared(text[sentence.start : sentence.end]))
        cited = _best(prompt, units, sums, worth)
        if cited:
            found.append(Citation(sentence.start, sentence.end, cited))
    return tuple(found)


def _kept_units(prompt: Prompt, cache: CompactCache) -> tuple[list[tuple[int, Unit]], Tensor]:
    """The units of documents of which something survived, each with its document, and of each kept context token its
    unit's number; -1 of what is no text, such as a title.
    """
    kept = cache.kept_tokens[cache.prefix_len : len(cache) - cache.suffix_len].cpu() - cache.prefix_len
    origins = prompt.origins[kept]
    there = set(origins[origins[:, 2] > origins[:, 1], 0].tolist())
    units = [split_units(document.text) if i in there else [] for i, document in enumerate(prompt.documents)]
    found, inside = unit_numbers(prompt.documents, units, origins)
    numbers = torch.full((len(kept),), -1).masked_scatter_(inside, found)
    return [(number, unit) for number, each in enumerate(units) for unit in each], numbers


def _looks(
    decoder: Decoder, heads: Mapping[int, tuple[int, ...]], cache: CompactCache, tokens: Tensor, sentences: list[Unit]
) -> Tensor:
    """(sentences, kept context): the share of what its tokens look at in the context that falls on each token."""
    ends = tokens[:, 2].long()
    starts = torch.tensor([sentence.start for sentence in sentences])
    number = (torch.searchsorted(starts, ends - 1, right=True) - 1).clamp(min=0)
    rows = (number == torch.arange(len(sentences))[:, None]).float()
    look = QuestionLook(heads, 0, rows / rows.sum(1, keepdim=True).clamp(min=1))
    ids = tokens[:, 0].long().to(decoder.device)[None]
    positions = cache.next_position + torch.arange(ids.shape[1], device=decoder.device)[None]
    end = max(heads) + 1
    past = cache.entries.layers(0, end).to_cache()
    seen = decoder.run_after(end, ids, positions, past, question=look).attention
    every = torch.cat([seen[layer][0].cpu() for layer in sorted(seen)])  # (heads, sentences, cached + answer)
    behind = cache.suffix_len + ids.shape[1]
    shares = torch.stack([votes(head, cache.prefix_len, behind) for head in every]).mean(0)
    return shares[:, cache.prefix_len : len(cache) - cache.suffix_len]


class _Words:
    """The words of all parts of which something survived; `lengths` are their tokens that did."""

    def __init__(self, prompt: Prompt, units: list[tuple[int, Unit]], lengths: Tensor) -> None:
        texts = (prompt.documents[number].text[unit.start : unit.end] for number, unit in units)
        kept = (lengths > 0).tolist()
        self._parts = [set(terms(text.lower())) if there else set() for text, there in zip(texts, kept, strict=True)]
        self._having, self._count = Counter(itertools.chain.from_iterable(self._parts)), sum(kept)

    def shared(self, sentence: str) -> Tensor:
        """(parts,), the share of a sentence's words that stand in each part, rare ones counting more, as in BM25."""
        said = {word for word in terms(sentence.lower()) if word in self._having}
        weights = {
            word: math.log1p((self._count - n + 0.5) / (n + 0.5)) for word in said for n in (self._having[word],)
        }
        whole = sum(weights.values()) or 1.0
        return torch.tensor([sum(weights[word] for word in said & part) / whole for part in self._parts])


def _best(prompt: Prompt, units: list[tuple[int, Unit]], sums: Tensor, worth: Tensor) -> tuple[Cited, ...]:
    """The parts of most worth, each with its share `sums`."""
    order = worth.argsort(descending=True, stable=True)[:MOST_CITED].tolist()
    best = [index for index in order if worth[index] > 0 and worth[index] >= _NEARLY * worth[order[0]]]
    return tuple(
        _cited(prompt.documents[number], number, unit, float(sums[index]))
        for index in best
        for number, unit in (units[index],)
    )


def _cited(document: Document, number: int, unit: Unit, share: float) -> Cited:
    text = document.text[unit.start : unit.end]
    return Cited(number, document.title, unit.start, unit.end, text, share)
