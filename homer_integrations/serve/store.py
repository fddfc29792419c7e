"""CacheStore: compact caches of requests that came before, within a number of bytes, least recently used out first."""

from __future__ import annotations

import collections
import hashlib
import json
import logging
import threading
from pathlib import Path

from homer import CacheError, CompactCache, HomerConfig, HomerModel, Prompt, StoreFolder

logger = logging.getLogger(__name__)


def cache_key(
    model: HomerModel, prompt: Prompt, config: HomerConfig, max_new_tokens: int | None, encoded: bool = False
) -> str:
    """A digest of all that a compact cache depends on; `encoded`: whether its leaves leave room for questions."""
    digest = hashlib.sha256()
    facts = {
        "model": model.decoder.fingerprint, "config": config.to_dict(), "max_new_tokens": max_new_tokens,
        "encoded": encoded,
    }  # fmt: skip
    digest.update(json.dumps(facts, sort_keys=True).encode())
    if model.calibration is not None:
        digest.update(model.calibration.digest.encode())
    if encoded:  # leaves end with documents
        digest.update(prompt.origins[:, 0].contiguous().numpy().tobytes())
    for ids in prompt.parts:
        digest.update(len(ids).to_bytes(8))
        digest.update(ids.contiguous().numpy().tobytes())
    return digest.hexdigest()


class CacheStore:
    """Compact caches by key, in memory and maybe in a folder too; safe for threads, and for processes that share it.

    Args:
        max_bytes: of keys and values in memory; 0 keeps none.
        folder: where to keep files as well; they outlive the process. What else it holds is left alone.
        folder_bytes: of files; 0 keeps none.
        device: where caches from files go.
    """

    def __init__(self, max_bytes: int, folder: Path | None = None, folder_bytes: int = 0, device: str = "cpu") -> None:
        self._max_bytes, self._device = max_bytes, device
        self._folder = None if folder is None else StoreFolder(folder, folder_bytes)
        self._caches: collections.OrderedDict[str, CompactCache] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._caches)

    def get(self, key: str) -> CompactCache | None:
        """The cache of this key, if it is here; it counts as used now."""
        with self._lock:
            if key in self._caches:
                self._caches.move_to_end(key)
                return self._caches[key]
        cache = self._read(key)
        if cache is not None:
            self._hold(key, cache)
        return cache

    def put(self, key: str, cache: CompactCache) -> None:
        """Keep a cache; those used least recently make room. One that is larger than all the room is not kept."""
        self._hold(key, cache)
        self._write(key, cache)

    def _hold(self, key: str, cache: CompactCache) -> None:
        with self._lock:
            if key in self._caches or cache.nbytes > self._max_bytes:
                return
            self._caches[key] = cache
            self._bytes += cache.nbytes
            while self._bytes > self._max_bytes:
                _, old = self._caches.popitem(last=False)
                self._bytes -= old.nbytes

    def _read(self, key: str) -> CompactCache | None:
        if self._folder is None or not (path := self._folder.path(key)).is_file():
            return None
        try:
            cache = CompactCache.load(path, self._device)
        except CacheError as error:  # damaged, or removed by another process just now: it is computed again
            logger.warning("a stored compact cache is put aside: %s", error)
            self._folder.put_aside(path)
            return None
        self._folder.used(path)
        return cache

    def _write(self, key: str, cache: CompactCache) -> None:
        if self._folder is None or cache.nbytes > self._folder.limit:
            return
        try:
            cache.save(path := self._folder.path(key))
        except CacheError as error:  # a full disk must not fail a request that has its answer
            logger.warning("a compact cache is not stored: %s", error)
        else:
            self._folder.wrote(path)
