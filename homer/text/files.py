"""Files and folders to documents: which files, under which titles, and what was left out and why."""

from __future__ import annotations

import dataclasses
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from homer.base.folder import MARK
from homer.errors import InputError
from homer.text.readers import STDIN, SUFFIXES, TEXT_SUFFIXES, UnreadableError, read_file

__all__ = ["TEXT_SUFFIXES", "is_among", "read_documents"]

logger = logging.getLogger(__name__)

_NAMED = 3  # files that are named for each reason of skipping


def read_documents(
    paths: Iterable[str | os.PathLike[str]],
    *,
    strict: bool = False,
    leave_out: Iterable[str | os.PathLike[str]] = (),
    report: Callable[[str], object] = logger.warning,
) -> list[dict[str, str]]:
    """Files, and all below folders that are of a kind that can be read, as documents; every file once.

    Text is read from files of the kinds in `TEXT_SUFFIXES`, which are UTF-8, or UTF-16 or 32 with a byte order mark;
    from PDF with the extra `pdf`; from HTML, DOCX, PPTX and XLSX with the extra `documents`. Hidden files and folders
    below a folder are left out. The title is the path below the folder, or the file's name, with as many folders
    before it as tell it from the others. The path `-` is standard input.

    Args:
        strict: a file below a folder that has to be skipped is an error.
        leave_out: files below a folder that are not to be read.
        report: called with one line that says what was skipped and why, where anything was.

    Raises:
        InputError: a path that is not there, a file given by name that cannot be read, no file at all; with `strict`,
            anything skipped.
    """
    if isinstance(paths, str | os.PathLike):
        raise InputError(f"paths is the single path {os.fspath(paths)!r}: give a list of paths")
    walk = _Walk(leave_out)
    for path in paths:
        walk.add(path)
    read = [(file, text) for file in walk.files if (text := walk.read(file)) is not None]
    if walk.skipped and strict:
        raise InputError(f"{walk.summary()}: leave them out, mend them, or do without strict")
    if not read:
        raise InputError(
            f"no files with text: give files or folders with {', '.join(SUFFIXES)} files"
            + (f"; {walk.summary()}" if walk.skipped else "")
        )
    if walk.skipped:
        report(walk.summary())
    titles = _titles([file for file, _ in read])
    return [{"title": title, "text": text} for title, (_, text) in zip(titles, read, strict=True)]


def is_among(path: str | os.PathLike[str], given: Iterable[str | os.PathLike[str]]) -> bool:
    """Whether a file is there and is one of the files given, or lies below one of the folders given."""
    file = Path(path).resolve()
    return file.exists() and any(other == file or other in file.parents for other in (Path(p).resolve() for p in given))


@dataclasses.dataclass(frozen=True)
class _File:
    """A file, how many of the last parts of its path are its title, and whether it was given by name."""

    path: Path
    parts: int
    named: bool


class _Walk:
    """Files that are found, and what is skipped."""

    def __init__(self, leave_out: Iterable[str | os.PathLike[str]]) -> None:
        self.files: list[_File] = []
        self.skipped: dict[str, list[str]] = {}  # files by the reason why
        self._seen: set[tuple[int, int]] = set()
        self._left_out = {_identity(os.stat(path)) for path in leave_out if os.path.exists(path)}

    def add(self, given: str | os.PathLike[str]) -> None:
        """A path as it was given."""
        path = STDIN if os.fspath(given) == "-" else Path(given)
        if path == STDIN:
            self.files += [] if any(file.path == STDIN for file in self.files) else [_File(STDIN, 1, True)]
            return
        try:
            kind = os.stat(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"no file at {path} ({reason}): check the path") from None
        if stat.S_ISDIR(kind.st_mode):
            for file in sorted(self._below(path)):
                self._add_found(file, len(file.relative_to(path).parts))
        elif self._is_new(kind):
            self.files.append(_File(path, 1, True))

    def read(self, file: _File) -> str | None:
        """The text of a file; None where it is skipped."""
        try:
            return read_file(file.path)
        except UnreadableError as error:
            if file.named:
                raise
            self._skip(file.path, error.problem)
            return None

    def summary(self) -> str:
        """What was skipped and why, in one line."""
        count = sum(map(len, self.skipped.values()))
        reasons = (f"{_some(names)} - {reason}" for reason, names in self.skipped.items())
        return f"skipped {count:,} file{'s' if count > 1 else ''}: {'; '.join(reasons)}"

    def _below(self, root: Path) -> Iterator[Path]:
        """Everything below a folder that is no folder, hidden, or part of a store."""
        for parent, folders, names in os.walk(root, onerror=self._note):
            if MARK in names:
                folders.clear()
                continue
            for name in folders:
                if os.path.islink(os.path.join(parent, name)) and not name.startswith("."):
                    self._skip(Path(parent, name), "is a link to a folder: give the folder itself")
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from (Path(parent, name) for name in names if not name.startswith("."))

    def _add_found(self, path: Path, parts: int) -> None:
        try:
            kind = os.stat(path)
        except OSError as error:
            self._note(error)
            return
        if _identity(kind) in self._left_out:
            return
        if not stat.S_ISREG(kind.st_mode):
            self._skip(path, "is no regular file")
        elif path.suffix.lower() not in SUFFIXES:
            self._skip(path, "is of a kind that is not read")
        elif self._is_new(kind):
            self.files.append(_File(path, parts, False))

    def _is_new(self, kind: os.stat_result) -> bool:
        new = _identity(kind) not in self._seen
        self._seen.add(_identity(kind))
        return new

    def _note(self, error: OSError) -> None:
        self._skip(Path(os.fsdecode(error.filename)), f"cannot be read ({error.strerror})")

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped.setdefault(reason, []).append(_printable(str(path)))


def _identity(kind: os.stat_result) -> tuple[int, int]:
    """What a file is known by, whatever its path."""
    return kind.st_dev, kind.st_ino


def _titles(files: list[_File]) -> list[str]:
    """A title for every file, all different."""
    paths = [Path(os.path.abspath(file.path)).parts for file in files]
    sizes = [file.parts for file in files]
    while True:
        titles = ["/".join(parts[-size:]) for parts, size in zip(paths, sizes, strict=True)]
        counts = Counter(titles)
        longer = [
            size + (counts[title] > 1 and size < len(parts))
            for title, size, parts in zip(titles, sizes, paths, strict=True)
        ]
        if longer == sizes:
            return [_printable(title) for title in titles]
        sizes = longer


def _some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _printable(path: str) -> str:
    """A path in which bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")
