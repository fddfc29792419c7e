"""Settings: what a configuration comes to for one model: lengths, layers, and what was measured of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from homer.backends.base import Decoder
from homer.config import HomerConfig, ResolvedConfig, usual_target
from homer.errors import ConfigError, UnsupportedModelError
from homer.generation.sampling import DEFAULT_NEW_TOKENS, THINKING_NEW_TOKENS, as_sampling
from homer.plan.batches import filling, leaves_at_once
from homer.plan.schedule import MergePlan, longer_leaf, plan_for
from homer.reuse.encode import Context
from homer.significance.calibration import Calibration
from homer.significance.choosing import as_significance, settled
from homer.significance.question import Question
from homer.text.prompt import Prompt


class Settings:
    """Derives plans from configurations.

    Args:
        name: the model's, for messages.
        calibrated: gives the model's calibration, with what a significance needs of it.
        devices: how many read one context together.
    """

    def __init__(
        self, decoder: Decoder, name: str, calibrated: Callable[[Any], Calibration | None], devices: int = 1
    ) -> None:
        self._decoder, self._name, self._calibrated, self._devices = decoder, name, calibrated, devices

    def resolve(
        self, config: HomerConfig, whole: int | None = None, evidence_layer: int | None = None
    ) -> ResolvedConfig:
        """The settings with everything derived that was left to the model. Raises ConfigError on what does not fit.

        Args:
            whole: tokens of the one chunk that would hold a prompt. Where they fit the model's window, a sliding
                attention window in it is the model's own business, and nothing is cut for its sake.
        """
        if not isinstance(config, HomerConfig):
            raise ConfigError(f"config is a {type(config).__name__}: give a HomerConfig, or None for the model's own")
        window, sliding = config.window_of(self._decoder.window), self._decoder.sliding_window
        fits = whole is not None and whole <= (config.max_chunk_len or window)
        if sliding and whole and fits and config.max_initial_chunk_len is None:
            longest = config.max_chunk_len or max(whole, min(sliding, window))
            config, sliding = dataclasses.replace(config, max_chunk_len=longest), None
        return config.resolve(self._decoder.window, self._decoder.layers, sliding, evidence_layer)

    def settle(self, config: HomerConfig, whole: int | None = None) -> ResolvedConfig:
        """The same, by what the model was measured to find, where the settings ask for that."""
        calibration = self._calibrated(config.significance)
        significance = settled(config.significance, calibration)
        layer = calibration.evidence_layer if calibration and asks_for_heads(significance) else None
        return self.resolve(dataclasses.replace(config, significance=significance), whole, layer)

    def plan(
        self, config: HomerConfig, lengths: Sequence[int], document_lens: Sequence[int] | None
    ) -> tuple[ResolvedConfig, MergePlan]:
        """The settings and the plan; the model is only measured where something is pruned."""
        whole = None if document_lens else _needed(config, lengths)
        resolved = self.resolve(config, whole)
        self._check_slides(resolved, lengths)
        plan = plan_for(resolved, self._decoder.layers, lengths, document_lens)
        if plan.prunes or resolved.target_len < resolved.max_chunk_len:
            resolved = self._aimed(config, self.settle(config, whole), lengths)
            resolved = self._with_longer_leaves(config, resolved, lengths, document_lens)
            plan = plan_for(resolved, self._decoder.layers, lengths, document_lens)
        if self._fills(config):
            size = leaves_at_once(plan, self._decoder.hidden_size, self._devices)
            resolved = dataclasses.replace(resolved, chunk_batch_size=size)
        return resolved, plan

    def at_once(self, config: HomerConfig, length: int, count: int) -> int:
        """How many of `count` leaves of a length in tokens run at a time, where any device can run any of them."""
        if self._fills(config):
            return filling(self._decoder.hidden_size, length, count // self._devices)
        return config.chunk_batch_size or 1

    def _fills(self, config: HomerConfig) -> bool:
        """Whether so many leaves run at a time as fill the device; a CPU has work enough with one."""
        return config.chunk_batch_size is None and self._decoder.device.type == "cuda"

    def _aimed(self, config: HomerConfig, resolved: ResolvedConfig, lengths: Sequence[int]) -> ResolvedConfig:
        """The settings with a target, where a question decides what stays and none is given."""
        if config.target_len is not None or not resolved.looks_again:
            return resolved
        affix = lengths[0] + max(lengths[2], config.suffix_budget)
        return dataclasses.replace(
            resolved, target_len=min(resolved.target_len, affix + usual_target(config.window_of(self._decoder.window)))
        )

    def _with_longer_leaves(
        self,
        given: HomerConfig,
        resolved: ResolvedConfig,
        lengths: Sequence[int],
        document_lens: Sequence[int] | None,
    ) -> ResolvedConfig:
        """The settings with leaves a quarter longer, where these are half as many and that is left to the library."""
        asked = given.max_chunk_len or given.max_initial_chunk_len or document_lens is not None
        if asked or not self._takes_longer_leaves(resolved):
            return resolved
        reserved = lengths[0] + max(lengths[2], resolved.suffix_budget)
        longest = longer_leaf(lengths[1], reserved, resolved.max_chunk_len)
        return dataclasses.replace(resolved, max_initial_chunk_len=longest)

    def _takes_longer_leaves(self, config: ResolvedConfig) -> bool:
        """Whether leaves may be longer than half the window, though merged chunks are not.

        Only where survivors are read anew: elsewhere new tokens come at positions behind the longest leaf's, and would
        have less of the window. And only where nothing ends at half the window: a calibration by distance, a sliding
        attention window, or a RoPE that changes with the length.
        """
        fixed = self._decoder.sliding_window is None and self._decoder.steady_len is None
        return fixed and config.looks_again and not as_significance(config.significance).reads_distances

    def plan_encoding(
        self, given: HomerConfig, context: Context, document_lens: tuple[int, ...] | None
    ) -> tuple[ResolvedConfig, MergePlan, tuple[int, ...] | None]:
        """The settings and the plan of a context's leaves, for any suffix of `given.suffix_budget` tokens at most.

        The last is `document_lens`, or None where all fits one leaf of a model with sliding attention.
        """
        lengths = len(context.prefix_ids), len(context.context_ids), 1  # leaves are the same for any suffix in budget
        whole = _needed(given, lengths)
        resolved = self.resolve(given, whole)
        if self._decoder.sliding_window is not None and whole <= resolved.max_chunk_len:
            document_lens = None
        if context.documents and document_lens is None:
            resolved = self.whole(resolved, whole)
        if resolved == self.resolve(given, whole):
            resolved = self._aimed(given, self.settle(given, whole), lengths)
            resolved = self._with_longer_leaves(given, resolved, lengths, document_lens)
        self._check_slides(resolved, (*lengths[:2], given.suffix_budget))
        plan = plan_for(resolved, self._decoder.layers, lengths, document_lens)
        # as many as fill so many chunks run at a time, see `encode`, since leaves may be shorter
        size = self.at_once(given, resolved.max_chunk_len, len(plan.spans))
        return dataclasses.replace(resolved, chunk_batch_size=size), plan, document_lens

    def fitting(self, given: HomerConfig, prompt: Prompt, max_new_tokens: int | None) -> HomerConfig:
        """The settings, or those of one chunk where the prompt needs no compression."""
        resolved = self.resolve(given)
        reserved = max(0, resolved.suffix_budget - len(prompt.suffix_ids))
        whole = self.whole(resolved, len(prompt) + reserved, max_new_tokens, prompt.thinking is not None)
        return self.cutting(given) if whole is resolved else whole

    def fitting_with_room(self, given: HomerConfig, prompt: Prompt, max_new_tokens: int | None) -> HomerConfig:
        """The same. Raises GenerationError where the window would end before max_new_tokens."""
        fitting = self.fitting(given, prompt, max_new_tokens)
        room = as_sampling(max_new_tokens, {}).room
        room(self._decoder.window, self.plan(fitting, prompt.lengths, None)[1].next_position)
        return fitting

    def cutting(self, config: HomerConfig) -> HomerConfig:
        """The settings for a prompt that leaves new tokens no room: cut though it may fit the window by itself."""
        if self._decoder.sliding_window is None:
            return config
        resolved = self.resolve(config)
        return dataclasses.replace(config, max_chunk_len=resolved.max_chunk_len, target_len=resolved.target_len)

    def whole(
        self, config: ResolvedConfig, length: int, max_new_tokens: int | None = None, thinks: bool = False
    ) -> ResolvedConfig:
        """The settings for a prompt of a length: one chunk where it needs no compression."""
        if length > self.whole_len(config, max_new_tokens, thinks):
            return config
        whole = max(length, config.max_chunk_len)
        return dataclasses.replace(config, max_chunk_len=whole, target_len=whole, max_initial_chunk_len=None)

    def whole_len(self, config: HomerConfig, max_new_tokens: int | None, thinks: bool = False) -> int:
        """The longest prompt that needs no compression; a model that thinks before it answers needs more room."""
        as_sampling(max_new_tokens, {})  # an error now costs nothing
        window = config.window_of(self._decoder.window)
        usual = min(THINKING_NEW_TOKENS, window // 4) if thinks else min(DEFAULT_NEW_TOKENS, window // 8)
        return window - (max_new_tokens or usual)

    def _check_slides(self, config: ResolvedConfig, lengths: Sequence[int]) -> None:
        """Refuse a sliding attention window in which chunks would be hardly more than what they share."""
        sliding, affix, tokens = self._decoder.sliding_window, lengths[0] + lengths[2], sum(lengths)
        if sliding and config.max_chunk_len <= sliding and tokens > config.max_chunk_len and 2 * affix > sliding:
            raise UnsupportedModelError(
                f"{self._name}: {tokens:,} tokens must be read in chunks no longer than its sliding attention "
                f"window of {sliding} tokens, of which prefix and suffix would take {affix}: give what fits its window "
                f"of {self._decoder.window:,} tokens, or use a model without sliding attention"
            )


def _needed(config: HomerConfig, lengths: Sequence[int]) -> int:
    """Tokens of the one chunk that would hold prefix, context and suffix of these lengths."""
    return lengths[0] + lengths[1] + max(lengths[2], config.suffix_budget)


def asks_for_heads(significance: Any) -> bool:
    """Whether a significance watches the heads that find what a question asks for."""
    return significance == "question" or isinstance(significance, Question)
