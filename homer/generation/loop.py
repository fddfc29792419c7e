"""From a compact cache to tokens: the library's own loop, and transformers' `generate` for all it does not know."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from homer.backends.base import Decoder
from homer.errors import GenerationError
from homer.generation.batching import Batch
from homer.generation.choosing import Chooser, reader
from homer.generation.sampling import (
    DEFAULT_NEW_TOKENS,
    REFUSED,
    SAMPLING_NAMES,
    Sampling,
    as_sampling,
    check_handed_on,
)
from homer.generation.stream import Stream
from homer.generation.telling import Teller
from homer.generation.thoughts import ThoughtMatcher
from homer.merging.cache import CompactCache
from homer.text.constraining.matching import Grammars, Guide
from homer.text.spelling import Spelling


class Streams:
    """Text that goes on from caches: by the library's own loop, or by transformers' where an option asks for it."""

    def __init__(self, decoder: Decoder, name: str, tokenizer: Any, end_ids: frozenset[int]) -> None:
        self._decoder, self._name, self._tokenizer, self._end_ids = decoder, name, tokenizer, end_ids
        self._grammars = Grammars(tokenizer, decoder.vocabulary, end_ids)
        self._spelling = Spelling(tokenizer)
        self.batch = Batch(decoder)

    def open(self, cache: CompactCache, max_new_tokens: int | None, options: Mapping[str, Any]) -> Stream:
        """A stream with any options: those of Sampling, and those of transformers' `generate`.

        Raises:
            GenerationError: settings out of range, or more tokens than the window leaves.
            CacheError: a cache that another model made.
        """
        return self.opened(cache, *self.check(max_new_tokens, options))

    def opened(self, cache: CompactCache, sampling: Sampling, others: Mapping[str, Any], number: int = 0) -> Stream:
        """The same with options that `check` gave; raises CacheError alone.

        Args:
            number: of several answers to one prompt, which it is of; see Sampling.sample.
        """
        if not others:
            return self.own(cache, sampling.sample(number))
        cache.check_made_by(self._decoder.fingerprint, self._name)
        known = {name: getattr(sampling, name) for name in ("temperature", "top_p", "top_k", "min_p")}
        chosen: dict[str, Any] = {name: value for name, value in known.items() if value is not None}
        if not sampling.samples:
            chosen = {}
        chosen |= {"do_sample": sampling.samples, "repetition_penalty": sampling.repetition_penalty} | dict(others)
        try:
            sequences = generate_with_transformers(
                self._decoder, cache, max_new_tokens=sampling.room(self._decoder.window, cache.next_position), **chosen
            )
        except (ValueError, TypeError) as error:  # what only transformers' own processors check
            raise GenerationError(
                f"transformers refuses {', '.join(others)} ({error}): change or leave them out"
            ) from error
        sequence = sequences[0].tolist()
        stopped = next((i + 1 for i, token in enumerate(sequence) if token in self._end_ids), None)
        return Stream(iter(sequence[:stopped]), self._end_ids, self._tokenizer, (), thinking=sampling.thinking)

    def own(self, cache: CompactCache, sampling: Sampling) -> Stream:
        """A stream by the library's own loop, token by token, together with all others of this model."""
        cache.check_made_by(self._decoder.fingerprint, self._name)
        room = sampling.room(self._decoder.window, cache.next_position)
        guide = self._guide(sampling, room)
        tokens = self.batch.open(cache, sampling, self._end_ids, guide)
        whole = (lambda: guide.whole) if guide else (lambda: False)
        teller = None if sampling.logprobs is None else Teller(tokens.scores, self._spelling)
        facts = sampling.stops, whole, teller, sampling.thinking, sampling.grammar
        return Stream(tokens, self._end_ids, self._tokenizer, *facts)

    def _guide(self, sampling: Sampling, room: int) -> Guide | None:
        """What says which tokens may come: a grammar, behind a thought where there is one, which must end in time."""
        matcher = self._grammars.matcher(sampling.grammar, room) if sampling.grammar else None
        bounded = matcher is not None or sampling.max_new_tokens is None
        if sampling.thinking is None or self._tokenizer is None or not bounded:
            return matcher
        vocabulary = max(self._decoder.vocabulary, len(self._tokenizer))  # as of grammars
        facts = self._tokenizer, sampling.thinking, matcher, vocabulary
        return ThoughtMatcher(*facts, room, self._end_ids, DEFAULT_NEW_TOKENS)

    def check(self, max_new_tokens: int | None, options: Mapping[str, Any]) -> tuple[Sampling, dict[str, Any]]:
        """The settings of Sampling, and the others. Raises GenerationError on what is out of range."""
        sampling = as_sampling(max_new_tokens, {name: options[name] for name in options if name in SAMPLING_NAMES})
        others = check_handed_on({name: options[name] for name in options if name not in SAMPLING_NAMES})
        if others and (sampling.seed is not None or sampling.stops):
            raise GenerationError("seed and stop cannot be combined with num_beams or other options of transformers")
        if others and sampling.logprobs is not None:
            raise GenerationError(
                f"logprobs cannot be combined with {', '.join(others)}: transformers tells none; leave one of them out"
            )
        if sampling.grammar and others:
            raise GenerationError(
                f"a grammar cannot be combined with {', '.join(others)}: beams and transformers' own options choose "
                f"tokens without it; leave one of them out"
            )
        if sampling.grammar:
            self._grammars.matcher(sampling.grammar)  # compiled now, or refused
        return sampling, others


def generate_tokens(
    decoder: Decoder, cache: CompactCache, sampling: Sampling, matcher: Guide | None = None
) -> Iterator[int]:
    """Tokens that go on from a cache, one at a time; they end with the window, with max_new_tokens, or with a grammar.

    The simple way, for one request alone: a `Batch` gives each of many the same tokens.
    """
    limit = sampling.room(decoder.window, cache.next_position)
    ahead = decoder.device.type == "cuda"  # the next step runs while this token is read
    logits = cache.logits.to(decoder.output_device)
    chooser = Chooser(sampling, cache.token_ids, logits.device, matcher)
    step = decoder.steps(cache.entries, cache.next_position, limit)
    for left in range(limit - 1, -1, -1):
        token = chooser.choose(logits)
        read = reader(token)
        if ahead and left:
            logits = step(token)
        (number,) = read()
        chooser.accept(number)
        yield number
        if chooser.finished:
            return
        if left and not ahead:
            logits = step(token)


def generate_with_transformers(decoder: Decoder, cache: CompactCache, **options: Any) -> Tensor:
    """Go on from a cache by transformers' own `generate`, with whatever options it knows.

    Returns:
        (sequences, new tokens), the new tokens only, padded as transformers pads.

    Raises:
        GenerationError: an option that cannot be honoured on top of a compact cache.
    """
    for name in REFUSED:
        if options.get(name) is not None:
            raise GenerationError(f"{name} cannot be given here: the prompt is the compact cache; leave it out")
    Sampling(max_new_tokens=options.setdefault("max_new_tokens", None)).room(decoder.window, cache.next_position)
    if options["max_new_tokens"] is None:
        options["max_new_tokens"] = min(DEFAULT_NEW_TOKENS, decoder.window - cache.next_position)
    batch = max(options.get("num_beams") or 1, options.get("num_return_sequences") or 1)
    ids = cache.token_ids.to(decoder.device)
    with torch.no_grad(), decoder.exclusive():
        output = _resuming(decoder, cache).generate(
            input_ids=ids,
            position_ids=cache.position_ids.to(decoder.device),
            attention_mask=torch.ones_like(ids),
            past_key_values=cache.to_dynamic_cache(batch, end=-1),
            **options,
        )
    sequences: Tensor = getattr(output, "sequences", output)
    return sequences[:, ids.shape[1] :]


def _resuming(decoder: Decoder, cache: CompactCache) -> Any:
    """The model for one `generate`, whose first forward answers from the cache's last entry and logits.

    Running the last token again would not give the same where its states come from merged chunks.
    """
    model = copy.copy(decoder.causal_lm)
    forward = decoder.causal_lm.forward
    waiting = [True]

    @functools.wraps(forward)
    def resume(*args: Any, **kwargs: Any) -> Any:
        if not waiting:
            return forward(*args, **kwargs)
        waiting.clear()
        states: DynamicCache = kwargs["past_key_values"]
        batch = kwargs["input_ids"].shape[0]
        for layer, (key, value) in enumerate(cache.entries.part(-1, None).each(lambda t: t.expand(batch, -1, -1, -1))):
            states.update(key, value, layer)
        logits = cache.logits.to(decoder.device)[:, None].expand(batch, -1, -1)
        return CausalLMOutputWithPast(logits=logits, past_key_values=states)

    model.forward = resume
    return model
