"""Case: a prompt in three parts and what its answer must hold; read and written as JSON lines."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homer.errors import InputError
from homer.text.tokenizing import Piece, PieceTokenizer

_FIELDS = ("prefix", "context", "postfix", "target")


@dataclasses.dataclass(frozen=True)
class Case:
    """A prompt whose answer is known.

    Attributes:
        prefix, postfix: text around the context, control tokens of the chat template written out.
        context: what is compressed.
        targets: what the answer must hold.
        length: the context length it stands for, in tokens of the whole prompt.
        depth: where the evidence stands, from 0 (first) to 1 (last).
    """

    prefix: str
    context: str
    postfix: str
    targets: tuple[str, ...]
    length: int
    depth: float

    def found(self, said: str) -> float:
        """The share of the targets that stand in `said` as whole words."""
        return sum(_holds(said, target) for target in self.targets) / len(self.targets)


class CaseTokenizer:
    """Cases to token ids; what stands in the context can never become a control token."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = PieceTokenizer(tokenizer)
        self._leading = self._tokenizer.leading_ids()
        self._affixes: dict[str, list[int]] = {}

    def tokenize(self, case: Case) -> tuple[Tensor, Tensor, Tensor]:
        """Prefix, context and suffix ids, (n,) each; a BOS comes first where the tokenizer puts one, once."""
        prefix = self._affix(case.prefix)
        if prefix[: len(self._leading)] != self._leading:
            prefix = self._leading + prefix
        context = self._tokenizer.tokenize(Piece(case.context)).ids
        return torch.tensor(prefix).long(), torch.tensor(context).long(), torch.tensor(self._affix(case.postfix)).long()

    def length(self, case: Case) -> int:
        """Tokens of the whole prompt."""
        return sum(map(len, self.tokenize(case)))

    def count(self, texts: Iterable[str]) -> list[int]:
        """Tokens of each text by itself."""
        return [len(self._tokenizer.tokenize(Piece(text)).ids) for text in texts]

    def _affix(self, text: str) -> list[int]:
        if text not in self._affixes:
            self._affixes[text] = self._tokenizer.tokenize(Piece(text, trusted=True)).ids
        return self._affixes[text]


def write_cases(path: str | os.PathLike[str], cases: Iterable[Case]) -> None:
    """One JSON object a line: prefix, context, postfix and target, as the method's authors have them, then ours."""
    lines = []
    for case in cases:
        target = case.targets[0] if len(case.targets) == 1 else list(case.targets)
        entry = {"prefix": case.prefix, "context": case.context, "postfix": case.postfix, "target": target}
        lines.append(json.dumps(entry | {"length": case.length, "depth": case.depth}, ensure_ascii=False) + "\n")
    try:
        Path(path).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): give another file") from None


def read_cases(path: str | os.PathLike[str], tokenizer: CaseTokenizer) -> list[Case]:
    """Cases of a JSON lines file with the fields prefix, context, postfix and target.

    Where a file does not say its length, the longest of its prompts stands for all; where it does not say a depth,
    it is where the first target stands in the context.

    Raises:
        InputError: no such file, or a line that is no such object.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no data at {path}: check the path, or make it with --write-data")
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")  # no other line end: texts may hold all others
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): give JSON lines in UTF-8") from None
    cases = [_parse(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not cases:
        raise InputError(f"{path} holds 0 cases: give at least one line")
    if all(case.length for case in cases):
        return cases
    longest = max(map(tokenizer.length, cases))
    return [dataclasses.replace(case, length=case.length or longest) for case in cases]


def _parse(path: Path, number: int, line: str) -> Case:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {number}, is no JSON ({error}): mend or remove it") from None
    missing = [name for name in _FIELDS if not isinstance(entry, dict) or name not in entry]
    if missing:
        raise InputError(f"{path}, line {number}, has no field {missing[0]!r}: each needs {', '.join(_FIELDS)}")
    target = entry["target"]
    targets = tuple(str(value).strip() for value in (target if isinstance(target, list) else [target]))
    prefix, context, postfix = texts = [entry[name] for name in _FIELDS[:3]]
    if not all(isinstance(text, str) for text in texts) or not targets or not all(targets) or not context.strip():
        raise InputError(f"{path}, line {number}: prefix, context and postfix are text, and the target is not empty")
    depth = entry.get("depth", round(max(0, context.find(targets[0])) / len(context), 1))
    return Case(prefix, context, postfix, targets, int(entry.get("length", 0)), float(depth))


def _holds(said: str, target: str) -> bool:
    """Whether the target stands in `said` and is not a part of a longer word or number."""
    start = said.find(target)
    while start >= 0:
        end = start + len(target)
        if not said[start - 1 : start].isalnum() and not said[end : end + 1].isalnum():
            return True
        start = said.find(target, start + 1)
    return False
