"""Documents: texts to answer from, by every form in which a user gives them."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from homer.base.arguments import as_title, check_list, check_real, check_text, replace_surrogates
from homer.errors import InputError

logger = logging.getLogger(__name__)

_NAMED = 20  # blank documents that a message names


@dataclasses.dataclass(frozen=True)
class Document:
    """A text to answer from, its title, and what stands around it in a prompt.

    Attributes:
        before: what stands before the text; None for a line with the title.
        after: what stands behind it.
        keeps_place: whether it stays where it is, when documents are put in another order to be read.
        score: what a retriever gave it, of any scale, the larger the better; see `Question.prior`.
    """

    text: str
    title: str | None = None
    before: str | None = None
    after: str = "\n\n"
    keeps_place: bool = False
    score: float | None = None

    @property
    def header(self) -> str:
        """What stands before the text in a prompt."""
        if self.before is not None:
            return self.before
        return f"Document: {self.title}\n" if self.title else "Document:\n"

    @property
    def blank(self) -> bool:
        """Whether it holds nothing to read: then it stands in no prompt."""
        return not self.text or self.text.isspace()

    def render(self) -> str:
        """The document as it stands in a prompt."""
        return f"{self.header}{self.text}{self.after}"


DocumentLike = str | Mapping[str, Any] | Document


def to_document(document: DocumentLike, number: int = 1) -> Document:
    """A string, or a mapping with `text` and maybe `title` and `score`, as a Document; a Document stays as it is.

    Halves of surrogate pairs become U+FFFD, which leaves every character where it was. A path as title stands
    for its file name, and what names nothing, such as NaN, for no title.

    Raises:
        InputError: another type, or another key.
    """
    if isinstance(document, str):
        return Document(replace_surrogates(document))
    if not isinstance(document, Document):
        document = _from_mapping(document, number)
    return _checked(document, f"document {number}")


def _from_mapping(document: Mapping[str, Any], number: int) -> Document:
    if not isinstance(document, Mapping) or not isinstance(document.get("text"), str):
        raise InputError(f"document {number} is neither a string nor a mapping with a string under 'text'")
    unknown = sorted(map(repr, set(document) - {"title", "text", "score"}))
    if unknown:
        raise InputError(f"document {number} has a key {unknown[0]}: only 'title', 'text' and 'score' are read")
    return Document(document["text"], document.get("title"), score=document.get("score"))


def _checked(document: Document, name: str) -> Document:
    """The document with texts that any encoding can hold, and a title that is a text."""
    title = as_title(document.title)
    if title is None and isinstance(document.title, Container) and not isinstance(document.title, str):
        raise InputError(f"the title of {name} is a {type(document.title).__name__}: give a string, or None")
    before = None if document.before is None else check_text(f"what stands before {name}", document.before)
    after = check_text(f"what stands behind {name}", document.after)
    text = check_text(f"the text of {name}", document.text)
    if document.score is not None:
        check_real(f"the score of {name}", document.score, -math.inf)
    checked = Document(text, title, before, after, document.keeps_place, document.score)
    return document if checked == document else checked


def document_numbers(documents: Sequence[Document], origins: Tensor) -> Tensor:
    """(tokens,), the number of the document that each token is of; -1 where it keeps its place.

    Args:
        origins: (tokens, 3), as in Prompt.
    """
    numbers = origins[:, 0]
    stays = torch.tensor([document.keeps_place for document in documents])
    return numbers.masked_fill(stays[numbers], -1)


def document_ranks(documents: Sequence[Document], origins: Tensor) -> Tensor | None:
    """(tokens,), the rank of the document that each token is of, by the documents' scores, the best one 1.

    Equal scores have the same rank, and documents without one, such as earlier turns, one in the middle. None where
    no document has a score.

    Args:
        origins: (tokens, 3), as in Prompt.
    """
    scored = [number for number, document in enumerate(documents) if document.score is not None]
    if not scored:
        return None
    scores = torch.tensor([documents[number].score for number in scored], dtype=torch.float64)
    ranks = torch.full((len(documents),), (1 + len(scored)) // 2)
    ranks[scored] = 1 + len(scored) - torch.searchsorted(scores.sort().values, scores, right=True)
    return ranks[origins[:, 0]]


def to_documents(documents: Sequence[DocumentLike]) -> tuple[Document, ...]:
    """Every document as a Document; those that are blank are named in the log, and will stand in no prompt.

    Raises:
        InputError: one that is none, a single one, or none that holds text.
    """
    if isinstance(documents, Document):
        raise InputError("documents is a single Document: give a list of documents")
    given = check_list("documents", documents, "documents")
    texts = tuple(to_document(document, number) for number, document in enumerate(given, 1))
    blank = [document.title or f"document {number}" for number, document in enumerate(texts, 1) if document.blank]
    if blank:
        names = ", ".join(blank[:_NAMED]) + (f" and {len(blank) - _NAMED} more" if len(blank) > _NAMED else "")
        if len(blank) == len(texts):
            raise InputError(f"of {len(texts)} documents, 0 hold text ({names}): give at least one that does")
        logger.warning("%d of %d documents hold no text and are left out: %s", len(blank), len(texts), names)
    return texts
