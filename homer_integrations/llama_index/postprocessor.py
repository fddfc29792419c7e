"""HomerPostprocessor: a reranker and a compressor of LlamaIndex's nodes."""

from __future__ import annotations

import uuid
from typing import Any

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
)
from pydantic import ConfigDict

from homer import Compressed, Document, InputError
from homer_integrations.llama_index.nodes import title_of_node
from homer_integrations.shared.compressing import CompressorSettings
from homer_integrations.shared.documents import as_score
from homer_integrations.shared.threads import work_in_thread

_SPANS = "homer_spans"


class HomerPostprocessor(CompressorSettings, BaseNodePostprocessor):
    """Reranks nodes, or shortens them to what the query asks for; see `homer.Compressor`.

    With `keep="documents"` nodes stay as they are, the best one first; otherwise they stay in their order, and each
    is a new node of its kind with the text that is left, `homer_spans` in its metadata, the [start, end] characters
    of the original's text that it holds, and the original as its parent by relationship. Scores are shares of one
    query; those that the nodes come with count as `prior` says.

    Raises:
        InputError: no budget or several, or no query; says what to change.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # a misspelt setting is an error

    @classmethod
    def class_name(cls) -> str:
        """The class's name, as LlamaIndex writes it."""
        return "HomerPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        question, documents = _asked(nodes, query_bundle)
        return self._left(nodes, self.shorten(question, documents))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        question, documents = _asked(nodes, query_bundle)
        return self._left(nodes, await work_in_thread(lambda tick: self.shorten(question, documents, tick)))

    def _left(self, nodes: list[NodeWithScore], found: Compressed | None) -> list[NodeWithScore]:
        if found is None:
            return []
        left = []
        for number in self.order(found):
            index = found.indices[number]
            node = nodes[index].node
            if self.keep != "documents":
                node = _shortened(node, found.documents[number].text, [list(span) for span in found.spans[number]])
            left.append(NodeWithScore(node=node, score=found.scores[index]))
        return left


def _asked(nodes: list[NodeWithScore], query: QueryBundle | None) -> tuple[str, list[Document]]:
    if query is None:
        raise InputError("there is no query to look for: give query_str=, or query_bundle=")
    return query.query_str, [_document(node) for node in nodes]


def _document(node: NodeWithScore) -> Document:
    text = node.node.get_content(metadata_mode=MetadataMode.NONE)
    return Document(text, title_of_node(node.node), score=as_score(node.score))


def _shortened(node: BaseNode, text: str, spans: list[list[int]]) -> BaseNode:
    """A node of the same kind with the text that is left, and the node as its parent."""
    changed: dict[str, Any] = {
        "id_": str(uuid.uuid4()),
        "embedding": None,
        "metadata": {**node.metadata, _SPANS: spans},
        "excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, _SPANS],
        "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, _SPANS],
        "relationships": {**node.relationships, NodeRelationship.PARENT: node.as_related_node_info()},
    }
    shorter = node.model_copy(update=changed)
    shorter.set_content(text)
    return shorter
