"""KeyedCache: a cache of answers that goes by a key of ours, where LangChain's own leaves out the documents."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache

from homer_integrations.shared.marks import MarkedText


class KeyedCache(BaseCache):
    """The same cache, for the calls of one key.

    Args:
        cache: where answers are kept.
        key: what they depend on beside the prompt; LangChain's is left out.
    """

    def __init__(self, cache: BaseCache, key: str) -> None:
        self.key = key
        self._cache = cache

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """The answer kept for a prompt, if any."""
        return self._cache.lookup(*self._key(prompt))

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep the answer to a prompt."""
        self._cache.update(*self._key(prompt), return_val)

    def clear(self, **kwargs: Any) -> None:
        """Forget all answers, those of other keys among them."""
        self._cache.clear(**kwargs)

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """As `lookup`."""
        return await self._cache.alookup(*self._key(prompt))

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """As `update`."""
        await self._cache.aupdate(*self._key(prompt), return_val)

    async def aclear(self, **kwargs: Any) -> None:
        """As `clear`."""
        await self._cache.aclear(**kwargs)

    def _key(self, prompt: str) -> tuple[str, str]:
        """The prompt, and the key with where the documents stand in it."""
        mark = prompt.mark if isinstance(prompt, MarkedText) else None
        return str(prompt), self.key if mark is None else f"{self.key}{json.dumps(mark, sort_keys=True)}"
