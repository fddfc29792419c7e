"""Sampling: how the next token is chosen, and what of transformers' own options can be handed on to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from homer.base.arguments import check_real, check_whole, shown
from homer.errors import GenerationError
from homer.text.constraining.grammar import Grammar, as_grammar
from homer.text.thinking import Thinking
from homer.view.logprobs import MOST_ALTERNATIVES

DEFAULT_NEW_TOKENS, THINKING_NEW_TOKENS = 256, 8192
_COLDEST = 1e-4  # logits divided by less have no finite sums
_SEEDS = 2**64
_WHOLE = {
    "max_new_tokens": (1, 2**31 - 1),
    "top_k": (0, None),
    "seed": (-(2**63), _SEEDS - 1),
    "logprobs": (0, MOST_ALTERNATIVES),
}
_REAL = {"temperature": (0.0, None), "top_p": (0.0, 1.0), "min_p": (0.0, 1.0), "repetition_penalty": (0.01, 100.0)}
_OBJECTS = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn")
_UNREAD = ("_", "assistant_", "output_")
_INSTEAD = {
    "do_sample": "a temperature, top_p, top_k or min_p asks for sampling, else the likeliest token is taken",
    "max_tokens": "give max_new_tokens",
    "max_completion_tokens": "give max_new_tokens",
    "max_length": "give max_new_tokens",
    "min_length": "give min_new_tokens",
    "stop_strings": "give stop",
    "streamer": "call stream",
    "generation_config": "give its settings by name",
    "num_return_sequences": "one answer comes back; call once for each, with another seed",
    "return_dict_in_generate": "only text and token ids come back",
}
REFUSED = ("use_cache", "cache_implementation", "prefill_chunk_size", "inputs", "input_ids", "past_key_values")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; greedy unless a temperature, top_p, top_k or min_p asks for sampling.

    Attributes:
        max_new_tokens: most tokens to generate, thoughts included. None: 256, and 8,192 for a model that thinks before
            it answers, or fewer where the window ends before; such a thought ends in time for 256 more.
        temperature: 0 is greedy; None is 1 where another sampling setting is given, else greedy.
        top_p, top_k, min_p: as in transformers.
        seed: makes sampling repeatable, in this call alone.
        stop: strings that end the text; they are not part of it.
        repetition_penalty: over the surviving prompt and the new tokens, as in transformers; 1 is none.
        grammar: what the text must look like. Only tokens that it allows are chosen from, at every step; the text ends
            where the grammar does. A thought comes before it, and is free.
        logprobs: tell how likely the model held each token (see TokenLogprob), and so many of the likeliest beside
            it, 20 at most; 0: of the token alone. None: nothing is told.
        thinking: how the model marks what it thinks before it answers, which is then read apart; see `Prompt.thinking`.

    Raises:
        GenerationError: a value out of range.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    repetition_penalty: float = 1.0
    grammar: Grammar | None = None
    logprobs: int | None = None
    thinking: Thinking | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in _WHOLE.items():
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least, most, GenerationError)
        for name, (low, high) in _REAL.items():
            if getattr(self, name) is not None or name == "repetition_penalty":
                check_real(name, getattr(self, name), low, high, GenerationError)
        if self.temperature and self.temperature < _COLDEST:
            raise GenerationError(
                f"temperature={self.temperature} is too near 0 to divide by: give at least {_COLDEST}, or 0 for the "
                f"likeliest token"
            )
        self._check_stops()
        if not (self.thinking is None or isinstance(self.thinking, Thinking)):
            raise GenerationError(f"thinking={shown(self.thinking)} is no Thinking: give Prompt.thinking, or None")
        if self.grammar is not None and not as_grammar(self.grammar).free and self.stops:
            raise GenerationError(
                "stop and grammar cannot be combined: a grammar says where the text ends; leave stop out"
            )

    def _check_stops(self) -> None:
        wrong = [stop for stop in self.stops if not isinstance(stop, str)]
        if wrong:
            raise GenerationError(f"stop holds {shown(wrong[0])}, which is no string: give strings that end the text")
        if "" in self.stops:
            raise GenerationError("stop holds an empty string, which would stop every text at once: leave it out")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        given: Any = self.stop
        several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
        return tuple(given) if several else () if given is None else (given,)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        if self.temperature is None:
            return any(value is not None for value in (self.top_p, self.top_k, self.min_p))
        return self.temperature > 0

    def processors(self) -> LogitsProcessorList:
        """Transformers' own processors for these settings, in its order."""
        chosen: list[Any] = []
        if self.repetition_penalty != 1.0:
            chosen.append(RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty)))
        if self.samples:
            if self.temperature not in (None, 1.0):
                chosen.append(TemperatureLogitsWarper(float(self.temperature or 1.0)))
            if self.top_k:
                chosen.append(TopKLogitsWarper(int(self.top_k)))
            if self.top_p is not None and self.top_p < 1:
                chosen.append(TopPLogitsWarper(float(self.top_p)))
            if self.min_p is not None:
                chosen.append(MinPLogitsWarper(float(self.min_p)))
        return LogitsProcessorList(chosen)

    def sample(self, number: int) -> Sampling:
        """The settings of one of several answers to one prompt: where there is a seed, it goes on by the number."""
        if self.seed is None or not number:
            return self
        seed = self.seed + number
        return dataclasses.replace(self, seed=seed - _SEEDS if seed >= _SEEDS else seed)

    def room(self, window: int, next_position: int) -> int:
        """How many tokens may be generated before the window ends.

        Raises:
            GenerationError: fewer than max_new_tokens asks for, or none.
        """
        left = window - next_position
        if left < 1 or (self.max_new_tokens or 1) > left:
            raise GenerationError(
                f"max_new_tokens={self.max_new_tokens or 1} after position {next_position} would pass the model's "
                f"window of {window}: {left} are left; lower max_new_tokens or max_chunk_len"
            )
        usual = DEFAULT_NEW_TOKENS if self.thinking is None else THINKING_NEW_TOKENS
        return self.max_new_tokens or min(usual, left)


SAMPLING_NAMES = {field.name for field in dataclasses.fields(Sampling)} - {"max_new_tokens"}


def as_sampling(max_new_tokens: int | None, options: Mapping[str, Any]) -> Sampling:
    """The settings as Sampling. Raises GenerationError on a name it does not know."""
    unknown = sorted(set(options) - SAMPLING_NAMES)
    if unknown:
        raise GenerationError(f"unknown setting {unknown[0]!r}: stream knows {', '.join(sorted(SAMPLING_NAMES))}")
    return Sampling(max_new_tokens=max_new_tokens, **options)


def check_handed_on(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of transformers' options that change anything.

    Raises:
        GenerationError: one that transformers does not know, that cannot be honoured, or that is out of range.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("num_beams", "num_return_sequences"):
        if name in given:
            check_whole(name, given[name], 1, error=GenerationError)
            if given[name] == 1:
                del given[name]
    plain = {name: value for name, value in given.items() if name not in _OBJECTS}
    known = GenerationConfig().to_dict().keys() - {"transformers_version"}  # type: ignore[no-untyped-call]
    for name in plain:
        if name in _INSTEAD or name in REFUSED:
            instead = _INSTEAD.get(name, "the prompt is the compact cache")
            raise GenerationError(f"{name} cannot be given here: {instead}")
        if name not in known or name.startswith(_UNREAD):
            raise GenerationError(
                f"unknown setting {name!r}: give {', '.join(sorted(SAMPLING_NAMES))}, num_beams, or another option of "
                f"transformers' generate that changes which tokens come"
            )
    try:
        GenerationConfig(**plain)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError) as error:
        raise refused_by_transformers(plain, error) from None
    return given


def refused_by_transformers(options: Iterable[str], error: Exception) -> GenerationError:
    """The error where transformers does not take options by these names."""
    return GenerationError(f"transformers refuses {', '.join(options)} ({error}): change or leave them out")
