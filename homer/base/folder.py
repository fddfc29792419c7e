"""StoreFolder: files named by keys, in a folder that carries our mark; nothing else in it is ever touched."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from homer.base.locks import Lock
from homer.base.tensorfile import DRAFT
from homer.errors import StoreError

MARK = "homer-store.txt"
_MARK_TEXT = "A store of homer. Files named by 64 hexadecimal digits here may be removed by it at any time.\n"
_INNER = "homer-store"  # ours within a folder that holds other things
_SUFFIX, _ASIDE = ".safetensors", ".damaged"
_KEY = re.compile(r"[0-9a-f]{64}")
_ENTRY = re.compile(rf"[0-9a-f]{{64}}{_SUFFIX}({_ASIDE})?")
_HALF = re.compile(rf"[0-9a-f]{{64}}{_SUFFIX}\.\d+\.[0-9a-f]+{DRAFT}")
_STALE_S = 600.0  # a draft this old belongs to a process that was killed
_RECOUNT = 8  # writes after which what other processes wrote is counted


def store_root(folder: Path) -> Path:
    """Where entries stand: in the folder, where it is ours, empty or not there; else in a folder of ours within it."""
    ours = not folder.is_dir() or not any(folder.iterdir()) or (folder / MARK).is_file()
    return folder if ours else folder / _INNER


class StoreFolder:
    """Files by key within a number of bytes, which other processes may write, read and remove at any time.

    Args:
        folder: made where it is not there; where it holds other things, a folder `homer-store` in it is taken.
        limit: most bytes, give or take what other processes are writing; the least recently used leave first.
        nested: spread entries over subfolders, for many.

    Raises:
        StoreError: it cannot be made.
    """

    def __init__(self, folder: Path, limit: int, *, nested: bool = False) -> None:
        self.limit, self._nested = limit, nested
        self._lock, self._writes = Lock(), 0
        try:
            self.root = store_root(folder)
            self.root.mkdir(parents=True, exist_ok=True)
            if not (self.root / MARK).is_file():
                (self.root / MARK).write_text(_MARK_TEXT, encoding="utf-8")
        except OSError as error:
            raise StoreError(
                f"no store can be made at {folder} ({error.strerror}): give a folder to write to"
            ) from None
        self._remove_stale_drafts()
        self._held = self.nbytes()

    def path(self, key: str) -> Path:
        """Where the entry of a key stands, whether it is there or not."""
        name = key if _KEY.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()
        return (self.root / name[:2] if self._nested else self.root) / f"{name}{_SUFFIX}"

    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(size for _, size, _ in self._entries())

    def wrote(self, path: Path) -> None:
        """Count an entry that was just written; others may have to leave for it."""
        with self._lock, contextlib.suppress(FileNotFoundError):  # another process may have made room
            self._held += path.stat().st_size
            self._writes += 1
            if self._held > self.limit or self._writes % _RECOUNT == 0:
                self._trim()

    def used(self, path: Path) -> None:
        """Note that an entry was used now."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def put_aside(self, path: Path) -> None:
        """Rename a damaged entry, so that it can be made anew; it leaves by and by like any other."""
        with contextlib.suppress(OSError):
            os.replace(path, path.with_name(f"{path.name}{_ASIDE}"))

    def _trim(self) -> None:
        """Remove the least recently used, until the rest is within the limit."""
        entries = sorted(self._entries())
        self._held = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if self._held <= self.limit:
                return
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            self._held -= size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(time of last use, bytes, path) of every entry."""
        for path in self._files(_ENTRY):
            with contextlib.suppress(OSError):
                facts = path.stat()
                yield facts.st_mtime, facts.st_size, path

    def _remove_stale_drafts(self) -> None:
        for path in self._files(_HALF):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink()

    def _files(self, names: re.Pattern[str]) -> Iterator[Path]:
        """Files of ours by their names; no link is followed, since what it leads to is not ours."""
        folders = [self.root]
        if self._nested:
            folders = [path for path in self.root.glob("[0-9a-f][0-9a-f]") if not path.is_symlink() and path.is_dir()]
        for folder in folders:
            for path in folder.iterdir():
                here = not self._nested or path.name[:2] == folder.name
                if here and names.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                    yield path
