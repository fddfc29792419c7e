"""States kept across calls of LangChain and LlamaIndex."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core import SummaryIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode

from homer import ConfigError, HomerModel, StateStore, read_documents
from homer.demo import DOCUMENTS
from homer_integrations.langchain import ChatHomer
from homer_integrations.llama_index import HomerEncoder, HomerLLM, HomerSynthesizer

TEXTS = [document["text"] for document in read_documents([DOCUMENTS])]
FACT = "The door code for the northern archive is 48213."
QUESTION = "What is the door code for the northern archive?"
NOTES = [TEXTS[0][:2500], FACT, TEXTS[1][:2500]]


def cached(message: Any) -> int:
    return (message.usage_metadata.get("input_token_details") or {}).get("cache_read", 0)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_conversation_pays_for_its_documents_once(mini: HomerModel, tmp_path: Path, on_disk: bool) -> None:
    reuse: Any = str(tmp_path / "store") if on_disk else StateStore()
    chat = ChatHomer(model=mini, max_tokens=8, reuse=reuse)
    first = chat.invoke(QUESTION, documents=NOTES)
    assert first.text.rstrip(".") == "48213"
    assert cached(first) == 0
    tokens = first.usage_metadata["input_tokens"]
    history = [HumanMessage(QUESTION), AIMessage(first.text), HumanMessage("And which archive is it?")]
    second = chat.invoke(history, documents=NOTES)
    assert cached(second) > 0.8 * tokens
    turned = chat.invoke(QUESTION, documents=NOTES[::-1])
    assert turned.text.rstrip(".") == "48213"
    assert cached(turned) == cached(second)
    chunks = list(chat.stream(QUESTION, documents=NOTES))
    assert cached(chunks[-1]) == cached(second)
    assert "".join(chunk.text for chunk in chunks) == first.text


def test_memory_is_one_store_for_all(mini: HomerModel) -> None:
    before = ChatHomer(model=mini, max_tokens=4, reuse="memory").invoke(QUESTION, documents=NOTES)
    after = ChatHomer(model=mini, max_tokens=4, reuse="memory").invoke(QUESTION, documents=NOTES)
    assert (cached(before), cached(after) > 0) == (0, True)
    assert after.text == before.text
    assert cached(ChatHomer(model=mini, max_tokens=4).invoke(QUESTION, documents=NOTES)) == 0


def test_a_long_history_still_finds_room(mini: HomerModel) -> None:
    chat = ChatHomer(model=mini, max_tokens=4, reuse=StateStore())
    history = [HumanMessage(QUESTION), AIMessage(TEXTS[2][:2000]), HumanMessage(QUESTION)]
    assert chat.invoke(history, documents=NOTES).usage_metadata["input_tokens"] > 1500


def test_nodes_encoded_when_they_are_ingested(mini: HomerModel, tmp_path: Path) -> None:
    nodes = [TextNode(text=text, metadata={"title": f"note {number}"}) for number, text in enumerate(NOTES)]
    llm = HomerLLM(model=mini, max_tokens=8, reuse=str(tmp_path / "store"))
    assert IngestionPipeline(transformations=[HomerEncoder(llm=llm)]).run(nodes=nodes) == nodes
    retriever = SummaryIndex(nodes).as_retriever()
    engine = RetrieverQueryEngine.from_args(retriever, response_synthesizer=HomerSynthesizer(llm))
    response = engine.query(QUESTION)
    assert str(response).rstrip(".") == "48213"
    usage = response.metadata["homer"]["usage"]
    assert usage["cached_tokens"] > 0.9 * usage["input_tokens"]
    with pytest.raises(ConfigError, match='give it reuse="memory"'):
        HomerEncoder(llm=HomerLLM(model=mini))(nodes)
