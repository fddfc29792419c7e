"""What an answer rests on, as annotations of OpenAI's messages: url_citation, with more beside it for documents."""

from __future__ import annotations

import re
from typing import Any

from homer import Citation, Cited
from homer_integrations.serve.jobs import Finished
from homer_integrations.shared.citing import pairs

_WEB = re.compile(r"https?://\S+")


def annotations_of(result: Finished, words: str) -> dict[str, Any]:
    """`annotations` of a message with these words; nothing where nobody asked for any.

    One for each sentence and each part that it rests on. A document that is no web page has a URL of its number among
    those given and of its characters, as RFC 5147 writes them: `document:0#char=120,168`.
    """
    if not result.cites:
        return {}
    return {"annotations": [_annotation(citation, part) for citation, part in pairs(result.answer, words)]}


def _annotation(citation: Citation, part: Cited) -> dict[str, Any]:
    title = part.title or f"document {part.index + 1}"
    where = f"document:{part.index}#char={part.start},{part.end}"
    facts = {
        "start_index": citation.start,
        "end_index": citation.end,
        "title": title,
        "url": title if _WEB.fullmatch(title) else where,
        "quote": part.text,
        "document": {"index": part.index, "start": part.start, "end": part.end, "share": part.share},
    }
    return {"type": "url_citation", "url_citation": facts}
