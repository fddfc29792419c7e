"""Citations as LlamaIndex's messages have them: a CitationBlock behind the text for each sentence and part."""

from __future__ import annotations

from llama_index.core.base.llms.types import CitationBlock, TextBlock

from homer import Answer, Citation, Cited
from homer_integrations.shared.citing import pairs


def citation_blocks(answer: Answer, words: str) -> list[CitationBlock]:
    """What the sentences of `words` rest on; `source` is the document's number among those given, from 0.

    `additional_location_info` holds the characters of the answer's text (start_index, end_index) and of the document's
    (start_char_index, end_char_index).
    """
    return [_block(citation, part) for citation, part in pairs(answer, words)]


def _block(citation: Citation, part: Cited) -> CitationBlock:
    info = {
        "start_index": citation.start,
        "end_index": citation.end,
        "document_index": part.index,
        "start_char_index": part.start,
        "end_char_index": part.end,
    }
    return CitationBlock(
        cited_content=TextBlock(text=part.text),
        source=str(part.index),
        title=part.title or f"document {part.index + 1}",
        additional_location_info=info,
    )
