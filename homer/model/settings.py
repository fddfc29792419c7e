"""Settings: what a configuration comes to for one model: lengths, layers, and what was measured of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from homer.backends.base import Decoder
from homer.config import HomerConfig, ResolvedConfig
from homer.errors import ConfigError
from homer.generation.sampling import as_sampling
from homer.plan.schedule import MergePlan, plan_for
from homer.significance.calibration import Calibration
from homer.significance.choosing import settled
from homer.significance.question import Question
from homer.text.prompt import Prompt


class Settings:
    """Derives plans from configurations.

    Args:
        calibrated: gives the model's calibration, with what a significance needs of it.
    """

    def __init__(self, decoder: Decoder, calibrated: Callable[[Any], Calibration | None]) -> None:
        self._decoder, self._calibrated = decoder, calibrated

    def resolve(self, config: HomerConfig, evidence_layer: int | None = None) -> ResolvedConfig:
        """The settings with everything derived that was left to the model. Raises ConfigError on what does not fit."""
        if not isinstance(config, HomerConfig):
            raise ConfigError(f"config is a {type(config).__name__}: give a HomerConfig, or None for the model's own")
        decoder = self._decoder
        return config.resolve(decoder.window, decoder.layers, decoder.sliding_window, evidence_layer)

    def settle(self, config: HomerConfig) -> ResolvedConfig:
        """The same, by what the model was measured to find, where the settings ask for that."""
        calibration = self._calibrated(config.significance)
        significance = settled(config.significance, calibration)
        heads = calibration is not None and asks_for_heads(significance)
        layer = calibration.evidence_layer if heads and calibration else None
        return self.resolve(dataclasses.replace(config, significance=significance), layer)

    def plan(
        self, config: HomerConfig, lengths: Sequence[int], document_lens: Sequence[int] | None
    ) -> tuple[ResolvedConfig, MergePlan]:
        """The settings and the plan; the model is only measured where something is pruned."""
        resolved = self.resolve(config)
        plan = plan_for(resolved, self._decoder.layers, lengths, document_lens)
        if plan.prunes or resolved.target_len < resolved.max_chunk_len:
            resolved = self.settle(config)
            plan = plan_for(resolved, self._decoder.layers, lengths, document_lens)
        return resolved, plan

    def plan_encoding(
        self, given: HomerConfig, prefix_len: int, context_len: int, document_lens: tuple[int, ...] | None, whole: bool
    ) -> tuple[ResolvedConfig, MergePlan]:
        """The settings and the plan of a context's leaves, for any suffix of `given.suffix_budget` tokens at most.

        Args:
            whole: whether a context that fits the window stays one leaf.
        """
        resolved = self.resolve(given)
        if whole:
            resolved = self.whole(resolved, prefix_len + context_len + given.suffix_budget)
        if resolved == self.resolve(given):
            resolved = self.settle(given)
        lengths = prefix_len, context_len, 1  # leaves are the same for any suffix in budget
        return resolved, plan_for(resolved, self._decoder.layers, lengths, document_lens)

    def fitting(self, given: HomerConfig, prompt: Prompt, max_new_tokens: int | None) -> HomerConfig:
        """The settings, or those of one chunk where the prompt needs no compression."""
        resolved = self.resolve(given)
        reserved = max(0, resolved.suffix_budget - len(prompt.suffix_ids))
        whole = self.whole(resolved, len(prompt) + reserved, max_new_tokens)
        return given if whole is resolved else whole

    def whole(self, config: ResolvedConfig, length: int, max_new_tokens: int | None = None) -> ResolvedConfig:
        """The settings for a prompt of a length: one chunk where it needs no compression."""
        if length > self.whole_len(max_new_tokens):
            return config
        whole = max(length, config.max_chunk_len)
        return dataclasses.replace(config, max_chunk_len=whole, target_len=whole, max_initial_chunk_len=None)

    def whole_len(self, max_new_tokens: int | None) -> int:
        """The longest prompt that needs no compression."""
        as_sampling(max_new_tokens, {})  # an error now costs nothing
        window = self._decoder.window
        return min(window, self._decoder.sliding_window or window) - (max_new_tokens or min(256, window // 8))


def asks_for_heads(significance: Any) -> bool:
    """Whether a significance watches the heads that find what a question asks for."""
    return significance == "question" or isinstance(significance, Question)
