"""/v1/rerank and /v1/compress: what they take, and what they give."""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from homer import Compressed, Compressor
from homer_integrations.serve.asking import Asking
from homer_integrations.serve.documents import to_document
from homer_integrations.serve.jobs import Backend, CompressJob, Found
from homer_integrations.serve.limits import check_count
from homer_integrations.serve.settings import ServeSettings
from homer_integrations.serve.unknown import refuse_unknown


class CompressingRequest(Asking):
    """What both endpoints take."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    query: str = Field(description="What is asked.")
    documents: list[Any] = Field(min_length=1, description='Texts, {"text"}, {"title", "text"}, or {"id", "data"}.')

    @model_validator(mode="after")
    def _refuse_the_unknown(self) -> Self:
        refuse_unknown(self.model_extra, {})
        return self

    def job(self, settings: ServeSettings, client: str = "") -> CompressJob:
        """What is to be done, by whom.

        Raises:
            InputError: a document that cannot be read.
            ServeError: more of them than this server takes.
        """
        check_count("documents", len(self.documents), settings.max_documents)
        documents = tuple(to_document(document, number) for number, document in enumerate(self.documents, 1))
        return CompressJob(
            messages=({"role": "user", "content": self.query},),
            documents=documents,
            options=self.budget(),
            timeout=self.seconds(settings),
            client=self.asker(client),
            marker=self.mark,
        )

    def budget(self) -> dict[str, Any]:
        """The arguments of `Compressor.compress`."""
        raise NotImplementedError

    @property
    def mark(self) -> str:
        """What stands where something was left out."""
        return "[...]"

    def response(self, found: Compressed) -> dict[str, Any]:
        """The body of the response."""
        raise NotImplementedError


class RerankRequest(CompressingRequest):
    """The body of /v1/rerank, as Cohere, Jina and vLLM have it."""

    top_n: int | None = Field(default=None, ge=1, description="So many results; all unless given.")
    return_documents: bool | None = Field(default=False, description="Whether results hold the documents' texts.")

    def budget(self) -> dict[str, Any]:
        """All documents are ranked."""
        return {"top_k": len(self.documents), "keep": "documents"}

    def response(self, found: Compressed) -> dict[str, Any]:
        """Results, the best one first."""
        results = [self._result(found, index) for index in found.ranking[: self.top_n]]
        tokens = found.usage.input_tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"id": f"rerank-{uuid.uuid4().hex}", "model": self.model, "results": results, "usage": usage}

    def _result(self, found: Compressed, index: int) -> dict[str, Any]:
        result: dict[str, Any] = {"index": index, "relevance_score": found.scores[index]}
        if self.return_documents:
            given = to_document(self.documents[index], index + 1)
            result["document"] = {"text": given.text} | ({"title": given.title} if given.title else {})
        return result


class CompressRequest(CompressingRequest):
    """The body of /v1/compress. Exactly one of max_tokens, max_share and top_k is given."""

    max_tokens: int | None = Field(default=None, ge=1, description="Tokens of all that is handed out.")
    max_share: float | None = Field(default=None, gt=0, le=1, description="The same as a share of all tokens.")
    top_k: int | None = Field(default=None, ge=1, description="So many of the best sentences, passages or documents.")
    keep: Literal["sentences", "passages", "documents"] = Field(
        default="sentences", description="What stays or goes as a whole."
    )
    marker: str = Field(default="[...]", max_length=100, description="Stands where something was left out.")

    @model_validator(mode="after")
    def _check_budget(self) -> CompressRequest:
        Compressor.check(**self.budget())
        return self

    def budget(self) -> dict[str, Any]:
        """As given."""
        return {name: getattr(self, name) for name in ("max_tokens", "max_share", "top_k", "keep")}

    @property
    def mark(self) -> str:
        """As given."""
        return self.marker

    def response(self, found: Compressed) -> dict[str, Any]:
        """What is left of each document, and all of it as one text."""
        documents = [
            {
                "index": index,
                "title": document.title,
                "text": document.text,
                "spans": [list(span) for span in spans],
                "relevance_score": found.scores[index],
            }
            for index, document, spans in zip(found.indices, found.documents, found.spans, strict=True)
        ]
        given, kept = found.usage.input_tokens, found.usage.kept_tokens
        usage = {"prompt_tokens": given, "kept_tokens": kept, "total_tokens": given}
        facts = {"object": "compression", "created": int(time.time()), "model": self.model, "text": found.text}
        return {"id": f"compress-{uuid.uuid4().hex}"} | facts | {"documents": documents, "usage": usage}


async def found_by(backend: Backend, job: CompressJob) -> Compressed:
    """What a backend makes of a CompressJob. Raises HomerError."""
    async with contextlib.aclosing(backend.stream(job)) as events:
        async for event in events:
            if isinstance(event, Found):
                return event.compressed
    raise AssertionError("a CompressJob's last event is Found")
