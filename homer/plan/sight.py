"""Sight: how far a model's attention reaches, and which settings a prompt of some length gets by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from homer.config import HomerConfig, ResolvedConfig
from homer.errors import ConfigError, UnsupportedModelError


@dataclasses.dataclass(frozen=True)
class Sight:
    """What a model sees.

    Attributes:
        name: the model's, for errors.
        layers: how many decoder layers it has.
        window: its context window, in tokens.
        sliding: the shortest sliding attention window of its layers; None where all see the whole window.
    """

    name: str
    layers: int
    window: int
    sliding: int | None

    def resolve(
        self, config: HomerConfig, whole: int | None = None, evidence_layer: int | None = None
    ) -> ResolvedConfig:
        """The settings as numbers.

        Args:
            whole: tokens of the one chunk that would hold a prompt. Where they fit the model's window, a sliding
                attention window in it is the model's own business, and nothing is cut for its sake.

        Raises:
            ConfigError: no configuration, or settings that do not fit the model.
        """
        if not isinstance(config, HomerConfig):
            raise ConfigError(f"config is a {type(config).__name__}: give a HomerConfig, or None for the model's own")
        sliding = self.sliding
        fits = whole is not None and whole <= (config.max_chunk_len or self.window)
        if sliding and whole and fits and config.max_initial_chunk_len is None:
            longest = config.max_chunk_len or max(whole, min(sliding, self.window))
            config, sliding = dataclasses.replace(config, max_chunk_len=longest), None
        return config.resolve(self.window, self.layers, sliding, evidence_layer)

    def cutting(self, config: HomerConfig) -> HomerConfig:
        """The settings for a prompt that leaves new tokens no room: cut though it may fit the window by itself."""
        if self.sliding is None:
            return config
        resolved = self.resolve(config)
        return dataclasses.replace(config, max_chunk_len=resolved.max_chunk_len, target_len=resolved.target_len)

    def check(self, config: ResolvedConfig, lengths: Sequence[int]) -> None:
        """Refuse a sliding window in which chunks would be hardly more than the prefix and suffix that they share.

        Raises:
            UnsupportedModelError: says what would fit.
        """
        sliding, affix = self.sliding, lengths[0] + lengths[2]
        if sliding and config.max_chunk_len <= sliding and sum(lengths) > config.max_chunk_len and 2 * affix > sliding:
            raise UnsupportedModelError(
                f"{self.name}: {sum(lengths):,} tokens must be read in chunks no longer than its sliding attention "
                f"window of {sliding} tokens, of which prefix and suffix would take {affix}: give what fits its window "
                f"of {self.window:,} tokens, or use a model without sliding attention"
            )


def needed(config: HomerConfig, lengths: Sequence[int]) -> int:
    """Tokens of the one chunk that would hold prefix, context and suffix of these lengths."""
    return lengths[0] + lengths[1] + max(lengths[2], config.suffix_budget)
