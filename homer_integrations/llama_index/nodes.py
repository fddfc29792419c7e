"""LlamaIndex's messages, documents and nodes as homer's, and what became of every node of a response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    CitationBlock,
    DocumentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, NodeWithScore, TextNode

from homer import Document, InputError
from homer_integrations.llama_index.tools import written_calls
from homer_integrations.shared.conversation import REASONING, Asked, asked
from homer_integrations.shared.documents import as_score, title_of, to_homer_document
from homer_integrations.shared.once import items_of

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
# Calls and thoughts stand beside the words, and no later prompt repeats what an answer rested on.
_APART = (ToolCallBlock, ThinkingBlock, CitationBlock)


def to_conversation(messages: Sequence[ChatMessage], documents: Any = None, place: str | None = None) -> Asked:
    """Roles and texts of messages, and the documents given with them, by keyword, as blocks or in a marked text.

    Raises:
        InputError: a role or a block that this model cannot take, or documents that disagree.
    """
    conversation: list[dict[str, Any]] = []
    blocks: list[Document] = []
    for number, message in enumerate(messages, 1):
        if message.role not in _ROLES:
            raise InputError(
                f"message {number} has the role {message.role.value!r}: this model takes system, user, assistant and "
                f"tool messages"
            )
        role = _ROLES[message.role]
        calls = written_calls(message, number) if role == "assistant" else []
        said = {"role": role, "content": text_of(message)} | ({"tool_calls": calls} if calls else {})
        conversation.append(said | (_thought(message) if role == "assistant" else {}))
        blocks += [_from_block(block, number) for block in message.blocks if not _is_apart(block, role)]
    roads = (("documents=", to_documents(documents)), ("the messages' blocks", tuple(blocks)))
    return asked(messages, conversation, roads, place)


def text_of(message: ChatMessage) -> str:
    """The text of a message's blocks, one a line."""
    return "\n".join(block.text for block in message.blocks if isinstance(block, TextBlock))


def _thought(message: ChatMessage) -> dict[str, str]:
    """What the model thought before an earlier answer, which the chat template repeats or not."""
    thought = "\n".join(block.content for block in message.blocks if isinstance(block, ThinkingBlock) and block.content)
    return {REASONING: thought} if thought else {}


def to_documents(documents: Any) -> tuple[Document, ...]:
    """Strings, mappings, homer's Documents, or LlamaIndex's documents and nodes, as homer's; None is none.

    Raises:
        InputError: a single document, or one without text.
    """
    if documents is None:
        return ()
    return tuple(_to_document(document, number) for number, document in enumerate(_listed(documents), 1))


def title_of_node(node: BaseNode) -> str | None:
    """The title in a node's metadata, or else the file it comes from."""
    return title_of(node.metadata)


def whole_nodes(documents: Iterable[Any]) -> list[NodeWithScore]:
    """Every document as one node.

    Raises:
        InputError: no documents, a single one, none that holds text, or what is neither text nor a document.
    """
    nodes = [whole_node(document, number) for number, document in enumerate(_listed(documents), 1)]
    if not nodes:
        raise InputError("0 documents: give at least one")
    if not any(node.node.get_content(metadata_mode=MetadataMode.LLM).strip() for node in nodes):
        names = ", ".join(title_of_node(node.node) or f"document {n}" for n, node in enumerate(nodes[:20], 1))
        raise InputError(f"of {len(nodes)} documents, 0 hold text ({names}): give at least one that does")
    return nodes


def whole_node(document: Any, number: int) -> NodeWithScore:
    """A document as one node, with the document's id, however long it is.

    Raises:
        InputError: what is neither text nor a document.
    """
    if isinstance(document, NodeWithScore):
        return document
    if not isinstance(document, BaseNode):
        plain = _to_document(document, number)
        return NodeWithScore(
            node=TextNode(
                text=plain.text,
                metadata={"title": plain.title} if plain.title else {},
                excluded_embed_metadata_keys=["title"],
            )
        )
    if isinstance(document, TextNode):
        return NodeWithScore(node=document)
    node = TextNode(
        id_=document.node_id,
        text=document.get_content(metadata_mode=MetadataMode.NONE),
        metadata=document.metadata,
        excluded_llm_metadata_keys=document.excluded_llm_metadata_keys,
        excluded_embed_metadata_keys=document.excluded_embed_metadata_keys,
        relationships={NodeRelationship.SOURCE: document.as_related_node_info()},
        text_template=getattr(document, "text_template", "{metadata_str}\n\n{content}"),
        metadata_separator=document.metadata_separator,
        metadata_template=document.metadata_template,
    )
    return NodeWithScore(node=node)


def _listed(documents: Any) -> tuple[Any, ...]:
    """All documents. Raises InputError on a single one."""
    single = isinstance(documents, str | Mapping | BaseNode | NodeWithScore | Document)
    if single or not isinstance(documents, Iterable):
        raise InputError(f"documents is a single {type(documents).__name__}: give a list of documents")
    return items_of(documents)


def _to_document(document: Any, number: int) -> Document:
    score = as_score(document.score) if isinstance(document, NodeWithScore) else None
    if isinstance(document, NodeWithScore):
        document = document.node
    if isinstance(document, BaseNode):
        text = document.get_content(metadata_mode=MetadataMode.LLM)
        return Document(text, title_of_node(document), before="Document:\n", score=score)
    return to_homer_document(document, number)


def _is_apart(block: Any, role: str) -> bool:
    return isinstance(block, TextBlock) or (role == "assistant" and isinstance(block, _APART))


def _from_block(block: Any, number: int) -> Document:
    mime = str(getattr(block, "document_mimetype", None) or "")
    if not isinstance(block, DocumentBlock) or not mime.startswith("text/"):
        raise InputError(
            f"message {number} holds a block of type {block.block_type!r}{f' ({mime})' if mime else ''}: this model "
            f"reads text only; give text blocks, or document blocks with a document_mimetype of text/plain"
        )
    try:
        content = block.resolve_document().read()
    except ValueError:  # an empty one
        content = b""
    try:
        return Document(content.decode(), block.title)
    except UnicodeDecodeError as error:
        name = block.title or f"a document block of message {number}"
        raise InputError(f"{name} is no UTF-8 text (byte {error.start}): convert it to text first") from None
