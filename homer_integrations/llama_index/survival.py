"""Survival: what became of every node of a LlamaIndex response, in the response itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import NodeWithScore

from homer_integrations.llama_index.nodes import title_of_node
from homer_integrations.shared.citing import within
from homer_integrations.shared.documents import as_score
from homer_integrations.shared.facts import shortened

_PREFIX = "homer_"


class Survival:
    """What one call learns about its nodes, put into its response once its answer is there.

    The nodes of the response are copies: a retriever may hand out its own, and other calls read those.
    """

    def __init__(self, nodes: Sequence[NodeWithScore]) -> None:
        self.titles = [title_of_node(node.node) for node in nodes]
        self.scores = [as_score(node.score) for node in nodes]
        self._facts: dict[str, Any] | None = None
        self._response: Any = None

    def answered(self, facts: dict[str, Any]) -> None:
        """Take what an answer tells of itself; its documents are the nodes, in their order."""
        self._facts = facts
        self._fill()

    def attach(self, response: Any) -> None:
        """Take the response; of a stream, the figures come when it ends."""
        response.source_nodes = [_copy(node) for node in response.source_nodes]
        self._response = response
        self._fill()

    def _fill(self) -> None:
        if self._facts is None or self._response is None:
            return
        metadata = self._response.metadata = self._response.metadata or {}
        cited = self._facts.get("citations")  # None: nobody asked
        told = {} if cited is None else {"citations": within(cited, len(self.titles))}
        metadata["homer"] = shortened(self._facts | told)
        for source in self._facts["sources"]:
            if source["index"] < len(self.titles):  # beyond are earlier turns of a template, which are no node
                node = self._response.source_nodes[source["index"]].node
                figures = {f"{_PREFIX}{name}": source[name] for name in ("tokens", "kept", "relevance")}
                node.metadata.update(figures)
                node.excluded_llm_metadata_keys += list(figures)
                node.excluded_embed_metadata_keys += list(figures)
                if node.node_id in metadata:
                    metadata[node.node_id] = node.metadata


def _copy(scored: NodeWithScore) -> NodeWithScore:
    node = scored.node.model_copy(
        update={
            "metadata": dict(scored.node.metadata),
            "excluded_llm_metadata_keys": list(scored.node.excluded_llm_metadata_keys),
            "excluded_embed_metadata_keys": list(scored.node.excluded_embed_metadata_keys),
        }
    )
    return NodeWithScore(node=node, score=scored.score)
