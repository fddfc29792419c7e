"""A synthesizer and a query engine that hand whole nodes to a HomerLLM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.settings import Settings
from llama_index.core.types import RESPONSE_TEXT_TYPE
from pydantic import BaseModel

from homer import InputError
from homer_integrations.llama_index.encoder import TEXT_QA_TEMPLATE
from homer_integrations.llama_index.llm import HomerLLM
from homer_integrations.llama_index.nodes import whole_nodes
from homer_integrations.llama_index.request import Request
from homer_integrations.llama_index.survival import Survival


class HomerSynthesizer(BaseSynthesizer):
    """Answers from whole nodes in one call: none is cut, repacked or left out.

    The source nodes of a response are copies with `homer_tokens`, `homer_kept` and `homer_relevance` in their
    metadata; `response.metadata["homer"]` tells usage and sources, with `cite=True` of the LLM also citations, whose
    `index` counts the source nodes, and with `trace=True` all that `homer.show` draws. Of a stream, all of it comes at
    its end.

    Args:
        llm: a HomerLLM; None: Settings.llm. Where none was set there, this one is.
        text_qa_template: with {context_str} where the nodes belong, and {query_str}; None: TEXT_QA_TEMPLATE.
        output_cls: a pydantic class; every answer is an object of it, in a PydanticResponse. As for `llm` a HomerLLM's
            `as_structured_llm`. Needs `[structured]`.

    Raises:
        InputError: another LLM, a template without {context_str}, or objects that are to be streamed or parsed.
        GenerationError: when called, an answer that max_tokens cut before the object was whole.
    """

    def __init__(
        self,
        llm: LLM | None = None,
        *,
        text_qa_template: BasePromptTemplate | None = None,
        output_cls: type[BaseModel] | None = None,
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
        empty_response: str | None = None,
    ) -> None:
        llm = llm or Settings.llm
        if isinstance(llm, StructuredLLM):
            output_cls = output_cls or llm.output_cls
            llm = llm.llm
        if not isinstance(llm, HomerLLM):
            raise InputError(f"llm is a {type(llm).__name__}, which reads no whole documents: give a HomerLLM")
        if Settings._llm is None:  # or RetrieverQueryEngine.from_args would look for OpenAI's, in spite of this one
            Settings.llm = llm
        if output_cls is not None and (streaming or llm.output_parser is not None):
            other = "streaming=True" if streaming else "an output parser"
            raise InputError(
                f"{other} and output_cls={output_cls.__name__}: an object comes whole, leave one of them out"
            )
        super().__init__(
            llm, callback_manager, streaming=streaming, output_cls=output_cls, empty_response=empty_response
        )
        self._homer = llm
        self._text_qa_template = text_qa_template or TEXT_QA_TEMPLATE

    def synthesize(
        self,
        query: Any,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> Any:
        """As BaseSynthesizer's, with survival figures in the response."""
        survival = Survival(nodes)
        response = super().synthesize(query, nodes, additional_source_nodes, survival=survival, **response_kwargs)
        survival.attach(response)
        return response

    async def asynthesize(
        self,
        query: Any,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> Any:
        """As `synthesize`; the event loop goes on meanwhile."""
        survival = Survival(nodes)
        response = await super().asynthesize(
            query, nodes, additional_source_nodes, survival=survival, **response_kwargs
        )
        survival.attach(response)
        return response

    def get_response(
        self, query_str: str, text_chunks: Sequence[str], survival: Survival | None = None, **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """The answer from whole texts in one call; response_kwargs fill other places of the template."""
        request = self._request(query_str, text_chunks, survival, response_kwargs)
        if request.empty:
            return self._empty_response_generator() if self._streaming else self._empty_response
        if self._streaming:
            return request.stream()
        return request.finish(self._homer.chat(request.messages, **request.wanted))

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], survival: Survival | None = None, **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """As `get_response`; the event loop goes on meanwhile."""
        request = self._request(query_str, text_chunks, survival, response_kwargs)
        if request.empty:
            return self._empty_response_agenerator() if self._streaming else self._empty_response
        if self._streaming:
            return request.astream()
        return request.finish(await self._homer.achat(request.messages, **request.wanted))

    def _request(
        self, query_str: str, texts: Sequence[str], survival: Survival | None, variables: dict[str, Any]
    ) -> Request:
        if self._streaming and self._homer.output_parser is not None:
            raise InputError("an output parser needs the whole answer: leave it out, or set streaming=False")
        survival = survival or Survival(())
        return Request(self._homer, self._text_qa_template, query_str, texts, survival, variables, self._output_cls)

    def _get_prompts(self) -> PromptDictType:
        return {"text_qa_template": self._text_qa_template}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        self._text_qa_template = prompts.get("text_qa_template", self._text_qa_template)


class HomerQueryEngine(RetrieverQueryEngine):
    """Answers queries from whole documents, or from whole retrieved nodes."""

    @classmethod
    def from_documents(
        cls, documents: Iterable[Any], llm: LLM | None = None, *, streaming: bool = False, **settings: Any
    ) -> HomerQueryEngine:
        """An engine that reads all of the documents for every query, without retrieval.

        Args:
            documents: LlamaIndex's documents or nodes, strings, or mappings with `text` and maybe `title`.
            llm: a HomerLLM; None: Settings.llm.
            settings: as in `from_retriever`.

        Raises:
            InputError: no documents, or what is none; another LLM than a HomerLLM.
        """
        nodes = whole_nodes(documents)
        return cls.from_retriever(_Everything(nodes), llm, streaming=streaming, **settings)

    @classmethod
    def from_retriever(
        cls,
        retriever: BaseRetriever,
        llm: LLM | None = None,
        *,
        text_qa_template: BasePromptTemplate | None = None,
        output_cls: type[BaseModel] | None = None,
        streaming: bool = False,
        node_postprocessors: list[BaseNodePostprocessor] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> HomerQueryEngine:
        """An engine that reads the whole of every node that a retriever finds."""
        synthesizer = HomerSynthesizer(
            llm,
            text_qa_template=text_qa_template,
            output_cls=output_cls,
            streaming=streaming,
            callback_manager=callback_manager,
        )
        return cls(retriever, synthesizer, node_postprocessors, callback_manager)


class _Everything(BaseRetriever):
    """All nodes, in their order."""

    def __init__(self, nodes: list[NodeWithScore]) -> None:
        super().__init__()
        self._nodes = nodes

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return list(self._nodes)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return list(self._nodes)
