"""HomerConfig: the settings of hierarchical context merging, under the names the method's authors use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from homer.base.arguments import check_whole
from homer.errors import ConfigError

SIGNIFICANCES = ("auto", "question", "paper", "standardized")
_MINIMUM = {
    "max_chunk_len": 4,
    "target_len": 3,
    "layers_warmup": 0,
    "max_initial_chunk_len": 1,
    "chunk_batch_size": 1,
    "suffix_budget": 0,
    "window": 8,
}


@dataclasses.dataclass(frozen=True)
class HomerConfig:
    """Settings of one compression; immutable, and valid once made. Lengths are in tokens.

    What is None is derived from the model by `resolve`.

    Attributes:
        window: how much of the model's window is read at a time: a longer prompt is compressed, and what is derived
            from the window is derived from this. None: all of it. Of a model whose window is long, less of it is
            faster and takes less memory.
        max_chunk_len: longest chunk, affix included. None: half the window.
        target_len: most tokens that the compact cache holds in a layer. None: `max_chunk_len`, or less where new
            tokens would push the first ones out of a sliding attention window; where the question decides what
            stays, prefix, suffix and a sixteenth of the window, 512 tokens at least.
        layers_warmup: layers that run before any merging. None: 12 of every 32 layers, or as many more as it takes
            to pass one of the heads that find what a question asks for.
        max_initial_chunk_len: longest leaf, where leaves should be shorter, or longer, than later chunks.
            None: `max_chunk_len`; where that is None too and the question decides what stays, up to a quarter more if
            half as many leaves then do.
        refresh_suffix: run the real suffix once more on top of the compressed context, in place of the
            average of all chunks' suffixes. False is the paper's own way.
        chunk_batch_size: equal leaves that run in one batch; more is faster where chunks are short, and holds more
            memory. None: on a CUDA GPU as many as fill it, by their length and the model's hidden size; elsewhere 1.
        suffix_budget: room kept in every leaf, in tokens, so that all suffixes up to this long get the same
            leaves; what `HomerModel.encode` sets.
        significance: what decides which tokens survive: "question", "standardized", "paper", or "auto" for the one
            that finds most by the model's calibration; or one's own, a Significance or a function of an Observation
            (see `homer.significance.base`). In `to_dict`, and so in a saved cache, one's own is its module and
            name; such a name tells what was used and cannot be compressed with.

    Raises:
        ConfigError: a value of the wrong type or below its minimum.
    """

    max_chunk_len: int | None = None
    target_len: int | None = None
    layers_warmup: int | None = None
    max_initial_chunk_len: int | None = None
    refresh_suffix: bool = True
    chunk_batch_size: int | None = None
    suffix_budget: int = 0
    significance: str | Callable[..., Any] | Any = "auto"
    window: int | None = None

    def __post_init__(self) -> None:
        _check_significance(self.significance)
        if not isinstance(self.refresh_suffix, bool):
            raise ConfigError(f"refresh_suffix={self.refresh_suffix!r} is no bool: give True or False")
        for name, minimum in _MINIMUM.items():
            value = getattr(self, name)
            if value is not None or name == "suffix_budget":
                check_whole(name, value, minimum, error=ConfigError)
                object.__setattr__(self, name, int(value))  # numpy's are no JSON

    def resolve(
        self, window: int, layers: int, sliding_window: int | None = None, evidence_layer: int | None = None
    ) -> ResolvedConfig:
        """The configuration with everything that was None derived from a model.

        Args:
            window: the model's context window, in tokens.
            layers: how many decoder layers the model has.
            sliding_window: the shortest sliding attention window of its layers, if any has one, and chunks are merged.
            evidence_layer: the lowest layer with a head that finds what a question asks for, where that is known.

        Raises:
            ConfigError: a chunk longer than the window, more warmup layers than layers, or a chunk
                longer than a sliding attention window.
        """
        chunk = self.max_chunk_len or min(self.window_of(window) // 2, sliding_window or window)
        warmup = default_warmup(layers, evidence_layer) if self.layers_warmup is None else self.layers_warmup
        target = self.target_len or (chunk if sliding_window is None else _within(sliding_window, chunk))
        derived = {"max_chunk_len": chunk, "target_len": target, "layers_warmup": warmup}
        derived["chunk_batch_size"] = self.chunk_batch_size or 1  # more only where the leaves are known
        resolved = ResolvedConfig(**vars(self) | derived)
        _check_known(self.significance)
        resolved._check_against(window, layers, sliding_window)
        return resolved

    def window_of(self, window: int) -> int:
        """What is read at a time by a model of this window, in tokens. Raises ConfigError where that is more."""
        if self.window is not None and self.window > window:
            raise ConfigError(f"window={self.window} is beyond the model's window of {window} tokens: lower it")
        return self.window or window

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return settings | {"significance": _significance_name(self.significance)}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> HomerConfig:
        """The configuration that `to_dict` wrote. Raises ConfigError on a name it does not know."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ConfigError(f"unknown setting {unknown[0]!r}: the settings are {', '.join(known)}")
        return cls(**settings)


@dataclasses.dataclass(frozen=True)
class ResolvedConfig(HomerConfig):
    """A HomerConfig in which the lengths, the warmup and the batch are numbers, checked against a model."""

    max_chunk_len: int = 0
    target_len: int = 0
    layers_warmup: int = 0
    chunk_batch_size: int = 1

    @property
    def looks_again(self) -> bool:
        """Whether the significance has a last look at the root, with the real suffix on top of it."""
        if isinstance(self.significance, str):
            return self.refresh_suffix and self.significance == "question"
        return self.refresh_suffix and getattr(self.significance, "looks_again", False)

    def _check_against(self, window: int, layers: int, sliding_window: int | None) -> None:
        for name in ("max_chunk_len", "max_initial_chunk_len"):
            length = getattr(self, name)
            if length is not None and length > window:
                raise ConfigError(f"{name}={length} is beyond the model's window of {window} tokens: lower it")
            if length is not None and sliding_window is not None and length > sliding_window:
                raise ConfigError(
                    f"{name}={length} is longer than the model's sliding attention window of "
                    f"{sliding_window} tokens: lower it to {sliding_window} at most"
                )
        if self.layers_warmup > layers:
            raise ConfigError(f"layers_warmup={self.layers_warmup} but the model has {layers} layers: lower it")


def usual_target(window: int) -> int:
    """Context tokens to keep by a question where nothing else is said: a sixteenth of the window, 512 at least.

    They hold the answer nearly as often as more of them do, and a small model reads fewer better.
    """
    return max(512, window // 16)


def default_warmup(layers: int, evidence_layer: int | None) -> int:
    """12 of every 32 layers; more where every head that finds something lies higher."""
    least = max(1, layers * 12 // 32)
    return least if evidence_layer is None else max(least, min(evidence_layer + 1, layers - 1))


def _within(sliding_window: int, chunk: int) -> int:
    """What may be kept of a chunk, so that new tokens too still see all of it."""
    return max(_MINIMUM["target_len"], min(chunk, sliding_window - min(256, sliding_window // 8)))


def _significance_name(given: Any) -> str:
    """A name as it is; of one's own significance its module and its name."""
    if isinstance(given, str):
        return given
    return f"{given.__module__}:{getattr(given, '__qualname__', None) or repr(given)}"


def _check_significance(given: Any) -> None:
    named = given in SIGNIFICANCES or ":" in given if isinstance(given, str) else hasattr(given, "score")
    if not named and (isinstance(given, str) or not callable(given)):
        raise ConfigError(
            f"significance={given!r} is none: give {', '.join(map(repr, SIGNIFICANCES))} or a function of your own"
        )


def _check_known(given: Any) -> None:
    if isinstance(given, str) and given not in SIGNIFICANCES:
        raise ConfigError(
            f"significance={given!r} is only the name of one that a cache was made with: give the function itself, or "
            f"one of {', '.join(map(repr, SIGNIFICANCES))}"
        )
