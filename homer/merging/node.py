"""What is told of a tree while it is folded, and what it came to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from homer.merging.chunk import Chunk


@dataclasses.dataclass(frozen=True)
class Node:
    """One node of the tree just after it ran, for those who watch: see `Watcher`."""

    level: int
    index: int
    length: int
    chunk: Chunk
    pending: tuple[Chunk, ...]  # left siblings that still wait


Watcher = Callable[[Node], None]


@dataclasses.dataclass(frozen=True)
class Compressed:
    """The root: the survivors, the next token's logits (1, vocabulary), and their relevance (kept,).

    `survived` (length,) tells of every token of the input how many levels of the tree it came through.
    """

    chunk: Chunk
    logits: Tensor
    relevance: Tensor
    survived: Tensor
