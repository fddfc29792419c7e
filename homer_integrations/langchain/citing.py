"""Citations as LangChain's standard content blocks have them: annotations of the text, of type citation."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.content import create_citation

from homer import Answer, Citation, Cited
from homer_integrations.shared.citing import pairs


def text_block(text: str, annotations: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A block of text; those of one index are one block when chunks are added."""
    return {"type": "text", "text": text, "index": 0} | ({"annotations": annotations} if annotations else {})


def as_block(chunk: AIMessageChunk) -> AIMessageChunk:
    """The same chunk with its text as a block, to which annotations can come."""
    if not chunk.content:
        return chunk
    return chunk.model_copy(update={"content": [text_block(str(chunk.content))]})


def annotations_of(answer: Answer, words: str) -> list[dict[str, Any]]:
    """A Citation of LangChain's for every sentence and part: `start_index` and `end_index` are of the answer's text.

    `extras` say where the part stands: the document's number among those given, from 0, and characters of its text.
    """
    return [_annotation(citation, part) for citation, part in pairs(answer, words)]


def _annotation(citation: Citation, part: Cited) -> dict[str, Any]:
    where: dict[str, Any] = {"document_index": part.index, "start": part.start, "end": part.end, "share": part.share}
    return dict(
        create_citation(
            title=part.title, start_index=citation.start, end_index=citation.end, cited_text=part.text, **where
        )
    )
