"""Documents shortened in LangChain's and LlamaIndex's pipelines: places, scores, order, callbacks, cancelling."""

import asyncio
import time
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.schema import ImageNode, IndexNode, NodeRelationship, NodeWithScore, QueryBundle, TextNode
from pydantic import ValidationError

from homer import Compressor, HomerModel, InputError
from homer_integrations.langchain import HomerDocumentCompressor
from homer_integrations.llama_index import HomerPostprocessor
from homer_integrations.shared.compressing import CompressorSettings
from homer_integrations.shared.threads import work_in_thread

QUESTION = "What is the door code?"
TEXTS = [
    "The house is old. The door code is 48213. Nobody lives there.",
    "It rained all day. It was fine in May.",
    "A table.\n\n| gate | code |\n|---|---|\n| north | 1 |\n| south | 2 |",
]
DOCUMENTS = [
    Document(page_content=text, metadata={"source": f"{n}.txt", "n": n}, id=str(n)) for n, text in enumerate(TEXTS)
]


@pytest.fixture
def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text, metadata={"file_name": "a.txt"}), score=0.5) for text in TEXTS]


class Everything(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return DOCUMENTS


class Runs(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.seen.append(("start", kwargs.get("name"), inputs["query"]))

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.seen.append(("end", len(outputs["documents"])))

    def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        self.seen.append(("error", type(error)))


def same_as_compressor(small: HomerModel, found: list[Document], **budget: Any) -> None:
    texts = [{"text": text, "title": f"{n}.txt"} for n, text in enumerate(TEXTS)]
    expected = Compressor(small).compress(QUESTION, texts, **budget)
    assert [document.page_content for document in found] == [document.text for document in expected.documents]
    assert [document.metadata["n"] for document in found] == list(expected.indices)
    for document, spans in zip(found, expected.spans, strict=True):
        assert document.metadata["spans"] == [list(span) for span in spans]
        assert document.metadata["relevance_score"] == expected.scores[document.metadata["n"]]
        assert document.id == str(document.metadata["n"])


async def test_behind_a_retriever_in_both_ways(small: HomerModel) -> None:
    compressor = HomerDocumentCompressor(model=small, max_tokens=40)
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Everything())
    runs = Runs()
    found = retriever.invoke(QUESTION, config={"callbacks": [runs]})
    same_as_compressor(small, found, max_tokens=40)
    assert ("start", "HomerDocumentCompressor", QUESTION) in runs.seen
    assert ("end", len(found)) in runs.seen
    assert await retriever.ainvoke(QUESTION, config={"callbacks": [runs]}) == found
    assert runs.seen.count(("start", "HomerDocumentCompressor", QUESTION)) == 2
    assert DOCUMENTS[0].metadata == {"source": "0.txt", "n": 0}  # copies; the given ones stay as they are


def test_whole_documents_come_best_first(small: HomerModel, nodes: list[NodeWithScore]) -> None:
    given = {"model": small, "top_k": 3, "keep": "documents"}
    found = HomerDocumentCompressor(**given).compress_documents(DOCUMENTS, QUESTION)
    scores = [document.metadata["relevance_score"] for document in found]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    assert sorted(document.page_content for document in found) == sorted(TEXTS)
    ranked = HomerPostprocessor(**given).postprocess_nodes(nodes, query_str=QUESTION)
    assert [node.score for node in ranked] == sorted((node.score for node in ranked), reverse=True)
    assert {id(node.node) for node in ranked} == {id(node.node) for node in nodes}


async def test_nodes_know_what_they_were(small: HomerModel, nodes: list[NodeWithScore]) -> None:
    processor = HomerPostprocessor(model=small, top_k=2)
    found = processor.postprocess_nodes(nodes, QueryBundle(QUESTION))
    by_id = {node.node.node_id: node.node for node in nodes}
    for one in found:
        parent = by_id[one.node.relationships[NodeRelationship.PARENT].node_id]
        for start, end in one.node.metadata["homer_spans"]:
            assert parent.text[start:end] in one.node.text
        assert one.node.metadata["file_name"] == "a.txt"
        assert "homer_spans" not in one.node.get_content("llm")
        assert one.score > 0
    again = await processor.apostprocess_nodes(nodes, QueryBundle(QUESTION))
    assert [one.node.text for one in again] == [one.node.text for one in found]


def test_what_is_refused_and_what_is_empty(small: HomerModel, nodes: list[NodeWithScore]) -> None:
    for kind in (HomerDocumentCompressor, HomerPostprocessor, CompressorSettings):
        with pytest.raises(InputError, match="0 budgets are given"):
            kind(model=small)
        with pytest.raises(InputError, match="keep='lines' is none"):
            kind(model=small, top_k=1, keep="lines")
    with pytest.raises(InputError, match="there is no query"):
        HomerPostprocessor(model=small, top_k=1).postprocess_nodes(nodes)
    compressor = HomerDocumentCompressor(model="/nowhere", top_k=1)  # without text, no model is even loaded
    assert compressor.compress_documents([], QUESTION) == []
    assert compressor.compress_documents([Document(page_content=" ")], QUESTION) == []


def test_nodes_stay_of_their_kind(small: HomerModel) -> None:
    text = "It rained all day. The door code is 48213. Nobody lives there."
    given = [
        IndexNode(
            text=text, index_id="other", metadata={"secret": 1, "page": 7}, excluded_llm_metadata_keys=["secret"]
        ),
        ImageNode(text=text, image="aGVsbG8="),
        LlamaDocument(text=text, metadata_template="<{key}={value}>", text_template="{metadata_str}:{content}"),
        ImageNode(image="aGVsbG8="),
    ]
    given[2].metadata = {"page": 9}
    processor = HomerPostprocessor(model=small, max_share=0.6)
    found = [
        one.node for one in processor.postprocess_nodes([NodeWithScore(node=n) for n in given], query_str=QUESTION)
    ]
    assert len(found) >= 2
    by_id = {node.node_id: node for node in given}
    for node in found:
        parent = by_id[node.relationships[NodeRelationship.PARENT].node_id]
        assert type(node) is type(parent)
        assert node.node_id != parent.node_id
        assert parent.get_content() == text
        assert node.get_content("llm").startswith(
            {IndexNode: "page: 7", LlamaDocument: "<page=9>:"}.get(type(node), "")
        )
    assert any(node.get_content() != text for node in found)
    whole = HomerPostprocessor(model=small, max_share=1.0)
    kinds = [
        type(one.node) for one in whole.postprocess_nodes([NodeWithScore(node=n) for n in given], query_str=QUESTION)
    ]
    assert kinds == [IndexNode, ImageNode, LlamaDocument]


def test_settings_are_checked_and_go_round() -> None:
    for kind in (HomerDocumentCompressor, HomerPostprocessor):
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            kind(top_k=1, markers="")
    given = HomerPostprocessor(top_k=1, marker="--")
    again = HomerPostprocessor.from_json(given.to_json())
    assert (again.top_k, again.marker, again.model) == (1, "--", "mini")


def test_tokens_as_another_model_counts_them(small: HomerModel, nodes: list[NodeWithScore]) -> None:
    def words(text: str) -> int:
        return len(text.split())

    given = {"model": small, "max_tokens": 12, "count": words}
    found = HomerDocumentCompressor(**given).compress_documents(DOCUMENTS, QUESTION)
    assert 6 <= sum(words(document.page_content) for document in found) <= 12
    left = HomerPostprocessor(**given).postprocess_nodes(nodes, query_str=QUESTION)
    assert 6 <= sum(words(one.node.get_content()) for one in left) <= 12


@pytest.mark.parametrize("wrong", ["The door code.", {"page_content": "The door code."}])
def test_a_compressor_takes_documents_alone(wrong: Any) -> None:
    compressor = HomerDocumentCompressor(model="/nowhere", top_k=1)  # said before a model is loaded
    with pytest.raises(InputError, match=f"document 2 is a {type(wrong).__name__}: give a Document"):
        compressor.compress_documents([DOCUMENTS[0], wrong], QUESTION)


async def test_errors_reach_callbacks(small: HomerModel) -> None:
    runs = Runs()
    compressor = HomerDocumentCompressor(model=small, top_k=1)
    with pytest.raises(InputError, match="the question is empty"):
        compressor.compress_documents(DOCUMENTS, " ", callbacks=[runs])
    with pytest.raises(InputError, match="the question is empty"):
        await compressor.acompress_documents(DOCUMENTS, " ", callbacks=[runs])
    assert [event for event in runs.seen if event[0] == "error"] == [("error", InputError)] * 2


async def test_cancelled_work_ends_at_its_next_tick() -> None:
    ended: list[type] = []

    def work(tick: Any) -> None:
        try:
            while True:
                tick()
                time.sleep(0.01)
        except Exception as error:
            ended.append(type(error))
            raise

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work_in_thread(work), 0.1)
    await asyncio.sleep(0.1)
    assert [kind.__name__ for kind in ended] == ["AbandonedWorkError"]
