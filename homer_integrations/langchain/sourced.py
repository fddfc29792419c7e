"""A chain's answer with its documents and citations beside it, streamed as it comes."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnableParallel
from langchain_core.runnables.utils import AddableDict

from homer_integrations.shared.citing import within
from homer_integrations.shared.once import items_of

_ANSWER, _DOCUMENTS, _SAID = "answer", "context", "said"


def with_sources(said: Runnable[Any, Any], parser: BaseOutputParser[Any], name: str) -> Runnable[dict[str, Any], Any]:
    """A chain that gives {"answer", "context", "citations"}.

    Args:
        said: gives what the model says of the chain's input.
        parser: makes the answer of it.
        name: under which the input holds the documents.
    """

    def split(chunks: Iterator[dict[str, Any]]) -> Iterator[AddableDict]:
        heard = _Heard()
        for piece in parser.transform(heard.of(chunks)):
            yield AddableDict({_ANSWER: piece})
        yield heard.rest()

    async def asplit(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[AddableDict]:
        heard = _Heard()
        async for piece in parser.atransform(heard.aof(chunks)):
            yield AddableDict({_ANSWER: piece})
        yield heard.rest()

    documents = RunnableLambda(operator.itemgetter(name)) | RunnableLambda(lambda given: list(items_of(given)))
    both: Runnable[Any, Any] = RunnableParallel({_DOCUMENTS: documents, _SAID: said})
    return both | RunnableGenerator(split, asplit, name="split_answer_and_sources")


class _Heard:
    """What a model says, passed on, and what comes with it."""

    def __init__(self) -> None:
        self._documents: list[Any] = []
        self._citations: list[Any] = []

    def of(self, chunks: Iterator[dict[str, Any]]) -> Iterator[Any]:
        for chunk in chunks:
            if self._note(chunk):
                yield chunk[_SAID]

    async def aof(self, chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[Any]:
        async for chunk in chunks:
            if self._note(chunk):
                yield chunk[_SAID]

    def rest(self) -> AddableDict:
        cited = within(self._citations, len(self._documents))
        return AddableDict({_DOCUMENTS: self._documents, "citations": cited})

    def _note(self, chunk: dict[str, Any]) -> bool:
        """Whether the model says something in it."""
        self._documents += chunk.get(_DOCUMENTS, [])
        said = chunk.get(_SAID)
        if isinstance(said, BaseMessage):
            self._citations += said.response_metadata.get("citations", [])
        return said is not None
