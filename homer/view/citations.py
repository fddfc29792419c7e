"""Citations: for each sentence of an answer the parts of the documents that it rests on."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cited:
    """A part of a document, whole: a sentence, a row of a table, a list item, a block of code.

    Attributes:
        index: the document's number among those given, from 0.
        title: as given.
        start, end: characters of the document's text.
        text: what stands there.
        share: of what the sentence's tokens look at in the documents, the share that falls on this part.
    """

    index: int
    title: str | None
    start: int
    end: int
    text: str
    share: float


@dataclasses.dataclass(frozen=True)
class Citation:
    """A sentence of an answer.

    Attributes:
        start, end: characters of the answer's text.
        cited: what it rests on, what it looks at most first.
    """

    start: int
    end: int
    cited: tuple[Cited, ...]
