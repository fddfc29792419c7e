"""The files of a batch: questions are read from one, answers added to another, which is known to be ours first."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from homer import InputError
from homer_integrations.shared.jsons import is_json

_KEYS = {"id", "question", "documents"}


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Rows with id, question and maybe documents; a row without an id has the number of its line.

    A line that is JSON but cannot be taken apart becomes a row with 'error'. The path `-` is standard input.

    Raises:
        InputError: no such file, a line that is no such row, or an id that comes twice.
    """
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        lines = content.decode("utf-8-sig").split("\n")  # no other line end: the rest may stand inside JSON strings
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): give a JSON lines file of questions in UTF-8") from None
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    seen: set[str | int] = set()
    for row in rows:
        if row["id"] in seen:
            raise InputError(f"{path} has the id {row['id']!r} twice: give every question an id of its own, or none")
        seen.add(row["id"])
    if not rows:
        raise InputError(f"{path} holds 0 questions: give at least one line of JSON with 'question'")
    return rows


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError:
        problem = f"line {number} of {path} is nested too deep to be read: give documents as texts"
        return {"id": number, "question": "", "error": problem}
    except ValueError as error:
        raise InputError(f"line {number} of {path} is no JSON ({error}): give an object with 'question'") from None
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        raise InputError(f"line {number} of {path} has no string under 'question': give one")
    unknown = sorted(set(row) - _KEYS)
    if unknown:
        raise InputError(f"line {number} of {path} has a key {unknown[0]!r}: only {', '.join(sorted(_KEYS))} are read")
    name = row.get("id", number)
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise InputError(f"line {number} of {path} has the id {name!r}: give a string or a whole number")
    return row | {"id": name}


@contextmanager
def opened_answers(out: Path, rows: Sequence[Mapping[str, Any]], inputs: Iterable[Path]) -> Iterator[AnswerFile]:
    """The file of answers to these rows, for this run alone.

    Args:
        inputs: files that are read, none of which may be written.

    Raises:
        InputError: it cannot be written, another run writes it, or it holds anything but answers to these rows.
            Then it is as it was.
    """
    with ExitStack() as held:
        try:
            _check_writable(out, inputs)
            real = out.resolve()
            held.enter_context(FileLock(real.with_name(f".{real.name}.homer.lock"), timeout=0))
            file = held.enter_context(out.open("a+b"))
        except Timeout:
            raise InputError(f"another run is writing {out}: wait for it, or give another --out") from None
        except OSError as error:
            raise InputError(
                f"{out} cannot be written ({error.strerror}): give a file in a folder that is there"
            ) from None
        yield AnswerFile(file, out, rows)


class AnswerFile:
    """Rows of answers on the disk, behind those that are there already.

    Attributes:
        done: ids that are answered already.
    """

    def __init__(self, file: IO[bytes], out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        self._file, self._out = file, out
        self._asked = {row["id"]: row["question"] for row in rows}
        file.seek(0)
        *lines, rest = file.read().split(b"\n")
        self.done = {self._name(number, line) for number, line in enumerate(lines, 1)}
        if rest:
            self._finish(len(lines) + 1, rest)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row; it is on the disk when this returns."""
        self._file.write(_line(row))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _finish(self, number: int, rest: bytes) -> None:
        """Complete or cut off what stands behind the last line end; a killed run may leave half a row there."""
        if is_json(rest):
            self.done.add(self._name(number, rest))
            self._file.write(b"\n")
            return
        if not any(rest.startswith(head) or head.startswith(rest) for head in self._heads()):
            raise self._foreign(number, "is no answer of a batch")
        self._file.truncate(self._file.tell() - len(rest))

    def _heads(self) -> Iterator[bytes]:
        """What an answer to any of the questions begins with."""
        for name, question in self._asked.items():
            for ascii_only in (False, True):
                head = json.dumps({"id": name, "question": question}, ensure_ascii=ascii_only)
                yield f"{head[:-1]}, ".encode(errors="surrogatepass")

    def _name(self, number: int, line: bytes) -> str | int:
        """The id of the question that a line answers."""
        try:
            row = json.loads(line)
            name: str | int = row["id"]
            question = row["question"]
            ours = "answer" in row or "error" in row
            same = name in self._asked and self._asked[name] == question
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._foreign(number, "is no answer of a batch") from None
        if not ours:
            raise self._foreign(number, "holds no answer")
        if not same:
            raise self._foreign(number, f"answers {question!r:.80} for id {name!r}, which is not asked here")
        return name

    def _foreign(self, number: int, problem: str) -> InputError:
        return InputError(f"line {number} of {self._out} {problem}: give another --out, or the same questions again")


def _check_writable(out: Path, inputs: Iterable[Path]) -> None:
    """Raise InputError where the answers would go into a file that is read, or into what is no file."""
    if not out.parent.is_dir():
        raise InputError(f"{out} cannot be written, there is no folder {out.parent}: make it, or give another --out")
    if not out.exists():
        return
    if not out.is_file():
        raise InputError(f"{out} is no regular file, so no run could go on where it stopped: give a file for --out")
    for path in inputs:
        if path.exists() and path.samefile(out):
            raise InputError(f"--out {out} is the same file as {path}, which is read: give another --out")


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return f"{json.dumps(row, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:  # half a character, which UTF-8 has no bytes for
        return f"{json.dumps(row)}\n".encode()
