"""HomerEncoder: LlamaIndex's ingestion encodes every node once, and queries find its states."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.prompts import BasePromptTemplate, ChatPromptTemplate
from llama_index.core.schema import BaseNode, MetadataMode, TransformComponent
from pydantic import ConfigDict

from homer import ConfigError, Document
from homer_integrations.llama_index.llm import HomerLLM
from homer_integrations.llama_index.nodes import title_of_node, to_conversation
from homer_integrations.shared.marks import PLACE

logger = logging.getLogger(__name__)

_SYSTEM = "Answer the question from the documents below. Keep the answer short."
TEXT_QA_TEMPLATE = ChatPromptTemplate(
    [
        ChatMessage(role=MessageRole.SYSTEM, content=_SYSTEM),
        ChatMessage(role=MessageRole.USER, content="{context_str}Question: {query_str}"),
    ]
)
"""What HomerSynthesizer asks unless told otherwise: the prompt of `HomerModel.ask`."""


class HomerEncoder(TransformComponent):
    """A step of an ingestion pipeline: every node is encoded into the store of an LLM, and passed on as it is.

    A HomerSynthesizer with the same LLM and template then finds the states of all nodes that a retriever gives it,
    in any order.

    Args:
        llm: a HomerLLM with `reuse=`.
        text_qa_template: the synthesizer's, since states depend on what stands before documents.

    Raises:
        ConfigError: when called, an LLM without reuse=.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    llm: HomerLLM
    text_qa_template: Any = TEXT_QA_TEMPLATE

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Encode nodes; those without text are left out of the store, and nothing is left out of the result."""
        call = self.llm.call(None, {})
        if call.store is None:
            raise ConfigError('this HomerLLM keeps no states: give it reuse="memory", or a folder')
        messages = to_conversation(self._messages()).messages
        texts = [node.get_content(metadata_mode=MetadataMode.LLM) for node in nodes]
        blank = [node.node_id for node, text in zip(nodes, texts, strict=True) if not text.strip()]
        if blank:
            logger.warning("%d of %d nodes hold no text and are left out: %s", len(blank), len(nodes), ", ".join(blank))
        for node, text in zip(nodes, texts, strict=True):
            if text.strip():
                document = Document(text, title_of_node(node), before="Document:\n")
                call.model.encode_prompt(call.prompt(messages, [document], PLACE), call.store, config=call.config)
        return nodes

    def _messages(self) -> list[ChatMessage]:
        template: BasePromptTemplate = self.text_qa_template
        messages: list[ChatMessage] = self.llm._get_messages(template, context_str=PLACE, query_str="?")
        return messages
