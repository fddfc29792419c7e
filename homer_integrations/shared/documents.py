"""Documents by every road a pipeline hands them over, as homer's."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from homer import Document, InputError, as_title
from homer_integrations.shared.once import items_of

logger = logging.getLogger(__name__)

_TEXT_KEYS = ("text", "page_content")
_OTHER_KEYS = ("title", "metadata", "id", "type", "score")
_TITLES = ("title", "source", "file_name", "file_path")


def to_homer_documents(documents: Any, score_key: str | None = None) -> tuple[Document, ...]:
    """Strings, mappings, or objects with `page_content` and `metadata`, as homer's Documents; None is none.

    Args:
        score_key: where metadata hold what a retriever scored a document with, if anywhere.

    Raises:
        InputError: a single document, or one without text; names the number found and the mend.
    """
    if documents is None:
        return ()
    if isinstance(documents, str | Mapping | Document) or not isinstance(documents, Iterable):
        raise InputError(f"documents is a single {type(documents).__name__}: give a list of documents")
    given = enumerate(items_of(documents), 1)
    found = tuple(to_homer_document(document, number, score_key) for number, document in given)
    note_scoreless(found, score_key)
    return found


def note_scoreless(documents: Sequence[Document], score_key: str | None) -> None:
    """Say in the log where the key that a user named is in no document: scores then count for nothing."""
    if score_key is not None and documents and all(document.score is None for document in documents):
        logger.warning("score_key=%r: none of %d documents has a score there", score_key, len(documents))


def to_homer_document(document: Any, number: int, score_key: str | None = None) -> Document:
    """One document; its title is that of its metadata, or else its source."""
    if isinstance(document, Document):
        return document
    if isinstance(document, str):
        return Document(document)
    if isinstance(document, Mapping):
        return _from_mapping(document, number, score_key)
    text = getattr(document, "page_content", None)
    if not isinstance(text, str):
        raise InputError(
            f"document {number} is a {type(document).__name__}: give a string, a mapping with 'text', or a Document"
        )
    metadata = getattr(document, "metadata", None) or {}
    return Document(text, title_of(metadata), score=score_of(metadata, score_key))


def title_of(metadata: Mapping[str, Any]) -> str | None:
    """The title in a document's metadata, or else where it comes from."""
    titles = (as_title(metadata.get(name)) for name in _TITLES)
    return next((title for title in titles if title is not None), None)


def score_of(metadata: Mapping[str, Any], key: str | None) -> float | None:
    """The score under a key of a document's metadata; None where there is none, or nobody named a key."""
    return None if key is None else as_score(metadata.get(key))


def as_score(value: Any) -> Any:
    """A retriever's score; None for NaN and the infinite, which retrievers give where they have none."""
    real = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)
    return None if real and not math.isfinite(value) else value


def agreed(roads: Sequence[tuple[str, tuple[Document, ...]]]) -> tuple[Document, ...]:
    """The documents that came by these roads, by name, most important first; none where all are empty.

    Raises:
        InputError: two roads with different documents.
    """
    taken = [(name, documents) for name, documents in roads if documents]
    for name, documents in taken[1:]:
        if documents != taken[0][1]:
            raise InputError(
                f"{taken[0][0]} holds {len(taken[0][1])} documents and {name} holds {len(documents)} others: give "
                f"them by one of the two"
            )
    return taken[0][1] if taken else ()


def _from_mapping(document: Mapping[str, Any], number: int, score_key: str | None) -> Document:
    texts = [document[name] for name in _TEXT_KEYS if name in document]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise InputError(f"document {number} is a mapping without one string under 'text' or 'page_content'")
    unknown = sorted(set(document) - {*_TEXT_KEYS, *_OTHER_KEYS})
    if unknown:
        raise InputError(f"document {number} has a key {unknown[0]!r}: put what is no text or title in 'metadata'")
    title, metadata = as_title(document.get("title")), document.get("metadata") or {}
    score = score_of(metadata, score_key) if document.get("score") is None else document["score"]
    return Document(texts[0], title if title is not None else title_of(metadata), score=score)
