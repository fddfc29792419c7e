"""HomerDocumentCompressor: what LangChain's ContextualCompressionRetriever puts behind a retriever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document

from homer import Compressed, InputError
from homer import Document as HomerDocument
from homer_integrations.langchain.base import STRICT
from homer_integrations.shared.compressing import CompressorSettings
from homer_integrations.shared.documents import to_homer_documents
from homer_integrations.shared.threads import work_in_thread


class HomerDocumentCompressor(CompressorSettings, BaseDocumentCompressor):
    """Shortens what a retriever found to what the query asks for; see `homer.Compressor`.

    Every document that is left is a copy with `relevance_score`, its share of all scores, and `spans`, the
    [start, end] characters of its former text that it holds, in its metadata. With `keep="documents"` documents stay
    whole, the best one first, as rerankers give them; otherwise they stay in their order. Callbacks see one run.

    Args:
        score_key: under which metadata of documents have their retriever's score, which counts as `prior` says.

    Raises:
        InputError: no budget or several, or a document without text; says what to change.
    """

    model_config = STRICT

    score_key: str | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """What is left of the documents."""
        run = CallbackManager.configure(callbacks).on_chain_start(
            self._serialized, _inputs(query, documents), name=_NAME
        )
        try:
            left = self._left(documents, self.shorten(query, self._given(documents)))
        except BaseException as error:
            run.on_chain_error(error)
            raise
        run.on_chain_end({"documents": left})
        return left

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """As `compress_documents`, in a thread; cancelling the task ends it after the leaf at hand."""
        manager = AsyncCallbackManager.configure(callbacks)
        run = await manager.on_chain_start(self._serialized, _inputs(query, documents), name=_NAME)
        try:
            given = self._given(documents)
            left = self._left(documents, await work_in_thread(lambda tick: self.shorten(query, given, tick)))
        except BaseException as error:
            await run.on_chain_error(error)
            raise
        await run.on_chain_end({"documents": left})
        return left

    @property
    def _serialized(self) -> dict[str, Any]:
        return {"name": _NAME, "id": ["homer_integrations", "langchain", _NAME]}

    def _given(self, documents: Sequence[Document]) -> tuple[HomerDocument, ...]:
        """The documents as homer's, all of them LangChain's: each one that is left is a copy with its metadata."""
        for number, document in enumerate(documents, 1):
            if not isinstance(document, Document):
                kind = type(document).__name__
                raise InputError(f"document {number} is a {kind}: give a Document, Document(page_content=...)")
        return to_homer_documents(documents, self.score_key)

    def _left(self, documents: Sequence[Document], found: Compressed | None) -> list[Document]:
        if found is None:
            return []
        return [self._one(documents[found.indices[number]], found, number) for number in self.order(found)]

    def _one(self, document: Document, found: Compressed, number: int) -> Document:
        facts = {
            "relevance_score": found.scores[found.indices[number]],
            "spans": [list(span) for span in found.spans[number]],
        }
        text = found.documents[number].text
        return Document(page_content=text, metadata={**document.metadata, **facts}, id=document.id)


_NAME = "HomerDocumentCompressor"


def _inputs(query: str, documents: Sequence[Document]) -> dict[str, Any]:
    return {"query": query, "documents": list(documents)}
