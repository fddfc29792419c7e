"""StateStore: states of leaves, kept on the GPU, in the CPU's memory and in a folder; bounded, and always checked.

An entry is one leaf: a slice of a context behind a prefix. Its key is a digest of all that its states depend on, so
that an entry is either the very states asked for, or is not found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from homer.backends.base import Decoder
from homer.base.arguments import check_whole
from homer.base.folder import StoreFolder
from homer.base.locks import Lock
from homer.base.recent import Recent
from homer.base.tensorfile import read_tensors, write_tensors
from homer.errors import ConfigError, StoreError
from homer.reuse.states import LeafStates

logger = logging.getLogger(__name__)

_FORMAT = 1
_NAMES = tuple(field.name for field in dataclasses.fields(LeafStates))
_READERS = 8
_GIB = 2**30


def leaf_key(decoder: Decoder, layers: int, prefix_ids: Tensor, slice_ids: Tensor) -> str:
    """A digest of what a leaf's states depend on.

    That is the model with its revision, dtype, RoPE and a sample of its weights, how many layers its leaves run, the
    prefix, and the slice. Chunk lengths and calibration matter to states by nothing else.
    """
    revision = getattr(decoder.causal_lm.config, "_commit_hash", None)
    facts = [_FORMAT, decoder.fingerprint, revision, layers, prefix_ids.tolist(), slice_ids.tolist()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class StateStore:
    """Keeps states of leaves; the least recently used leave a tier first. For any number of threads and processes.

    What leaves the GPU goes to the CPU's memory; what leaves that is in the folder, where there is one.

    Args:
        folder: where entries are written, and found again later; made if it is not there. What else it holds is
            left alone, and entries then stand in a folder `homer-store` in it. None: memory alone.
        device_bytes: most bytes on the model's GPU; None: a quarter of what is free when first used.
        memory_bytes: most bytes in the CPU's memory.
        disk_bytes: most bytes in the folder, give or take what other processes are writing.
        strict: raise StoreError where an entry cannot be written, rather than warn and go on without.

    Raises:
        ConfigError: a bound below 0.
        StoreError: a folder that cannot be made.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        device_bytes: int | None = None,
        memory_bytes: int = 8 * _GIB,
        disk_bytes: int = 256 * _GIB,
        strict: bool = False,
    ) -> None:
        for name, value in (("device_bytes", device_bytes), ("memory_bytes", memory_bytes), ("disk_bytes", disk_bytes)):
            if value is not None:
                check_whole(name, value, 0, error=ConfigError)
        self._device_bytes, self._strict, self._warned = device_bytes, strict, False
        self._device, self._memory = (_tier(limit) for limit in (device_bytes or 0, memory_bytes))
        self._lock = Lock()
        self._folder = None if folder is None else _Files(Path(folder), disk_bytes)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes held now: on the device, in memory, and on disk."""
        disk = 0 if self._folder is None else self._folder.nbytes()
        return {"device": self._device.held, "memory": self._memory.held, "disk": disk}

    def get(self, key: str, device: torch.device) -> LeafStates | None:
        """The states under a key, on the device or in the CPU's memory; None where there are none that are sound."""
        with self._lock:
            states = self._device.get(key)
            if states is not None and states.device == device:
                return states
            states = self._memory.get(key)
        if states is None and self._folder is not None:
            states = self._folder.read(key)
            if states is not None:
                states = states.pin() if device.type == "cuda" else states
                with self._lock:
                    self._memory.put(key, states)
        return states if states is None else self._promote(key, states, device)

    def find(self, keys: Sequence[str], device: torch.device) -> Iterator[LeafStates | None]:
        """As `get`, for many; files are read and checked by several threads."""
        if self._folder is None:
            yield from (self.get(key, device) for key in keys)
            return
        with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as readers:
            yield from readers.map(lambda key: self.get(key, device), keys)

    def has(self, key: str) -> bool:
        """Whether there is an entry; it may turn out to be damaged when read."""
        with self._lock:
            kept = key in self._device or key in self._memory
        return kept or (self._folder is not None and self._folder.has(key))

    def put(self, key: str, states: LeafStates) -> None:
        """Keep states under a key.

        Raises:
            StoreError: they cannot be written, where the store is strict.
        """
        if self._folder is not None:
            try:
                self._folder.write(key, states)
            except StoreError as error:
                if self._strict:
                    raise
                if not self._warned:
                    logger.warning("%s; going on without, and saying so once", error)
                self._warned = True
        with self._lock:
            if states.device.type == "cuda":
                self._set_bound(states.device)
                self._demote(self._device.put(key, states))
            else:
                self._memory.put(key, states)

    def _promote(self, key: str, states: LeafStates, device: torch.device) -> LeafStates:
        """States of memory on the GPU, where they fit without pushing others out."""
        with self._lock:
            self._set_bound(device)
            if device.type != "cuda" or not self._device.fits(states):
                return states
            states = states.to(device)
            self._device.put(key, states)
            return states

    def _set_bound(self, device: torch.device) -> None:
        if self._device_bytes is None and device.type == "cuda":
            self._device.limit = self._device_bytes = torch.cuda.mem_get_info(device)[0] // 4

    def _demote(self, entries: list[tuple[str, LeafStates]]) -> None:
        for key, states in entries:
            if key not in self._memory and states.nbytes <= self._memory.limit:  # or it would be copied for nothing
                self._memory.put(key, states.pin())


def _tier(limit: int) -> Recent[str, LeafStates]:
    return Recent(limit, lambda states: states.nbytes)


class _Files:
    """Entries as files of a folder."""

    def __init__(self, path: Path, limit: int) -> None:
        self._folder = StoreFolder(path, limit, nested=True)

    def nbytes(self) -> int:
        return self._folder.nbytes()

    def has(self, key: str) -> bool:
        return self._folder.path(key).is_file()

    def write(self, key: str, states: LeafStates) -> None:
        path, limit = self._folder.path(key), self._folder.limit
        if path.is_file():
            return
        if states.nbytes > limit:
            raise StoreError(
                f"an entry of {states.nbytes:,} bytes is beyond disk_bytes={limit:,}: raise it, or lower max_chunk_len"
            )
        try:
            path.parent.mkdir(exist_ok=True)
            write_tensors(path, dict(zip(_NAMES, states.tensors(), strict=True)), {"homer_leaf": key})
        except OSError as error:
            raise StoreError(
                f"{states.nbytes:,} bytes cannot be written to {self._folder.root} ({error.strerror}): free space "
                f"there, or give another folder"
            ) from None
        self._folder.wrote(path)

    def read(self, key: str) -> LeafStates | None:
        """States from a file; None where there is none, or none that is sound."""
        path = self._folder.path(key)
        if not path.is_file():
            return None
        try:
            metadata, tensors = read_tensors(path)
            if metadata.get("homer_leaf") != key or set(tensors) != set(_NAMES):
                raise ValueError("it holds other states than its name says")
        except FileNotFoundError:  # another process removed it
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s is no sound entry (%s): encoding it again", path, error)
            self._folder.put_aside(path)
            return None
        self._folder.used(path)
        return LeafStates(**tensors)
