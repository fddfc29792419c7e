"""EncodedCompressor: documents that come again are not read again, whatever is asked of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from homer import CompactCache, HomerConfig, HomerModel, Prompt, StateStore

_ROUND = 64  # budgets for questions, in tokens: leaves are the same for all questions of one budget


class EncodedCompressor:
    """Compresses by states of leaves that a store keeps, in place of HomerModel.compress_prompt.

    States are found again where the same documents come in the same order behind the same system message, with a
    question of any words. What fits the window has no leaves, and is compressed as ever.
    """

    def __init__(self, model: HomerModel, store: StateStore) -> None:
        self._model, self._store = model, store

    def __call__(
        self, prompt: Prompt, *, config: HomerConfig, max_new_tokens: int | None, watch: Callable[[Any], None]
    ) -> CompactCache:
        """The compact cache of a prompt; its `cached_tokens` are those found in the store."""
        if len(prompt) <= self._model.window:
            return self._model.compress_prompt(prompt, config=config, max_new_tokens=max_new_tokens, watch=watch)
        encoded = self._model.encode(
            prompt.context_ids,
            prefix=prompt.prefix_ids,
            suffix_budget=-(-len(prompt.suffix_ids) // _ROUND) * _ROUND,
            config=config,
            store=self._store,
            watch=lambda: watch(None),
        )
        cache = self._model.compress_encoded(encoded, prompt.suffix_ids, watch=watch)
        return dataclasses.replace(cache, cached_tokens=encoded.reused_tokens)
