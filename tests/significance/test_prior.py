"""Scores of a retriever as a prior: ranks of documents, and what they do to votes."""

import dataclasses

import numpy as np
import pytest
import torch
from langchain_core.documents import Document as Retrieved
from langchain_core.prompts import ChatPromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode

from homer import Compressor, ConfigError, Document, HomerModel, InputError, Question
from homer.text.documents import document_ranks, to_documents
from homer.text.ids import check_ranks
from homer_integrations.langchain import ChatHomer, HomerDocumentCompressor, create_homer_documents_chain
from homer_integrations.llama_index import HomerPostprocessor
from homer_integrations.llama_index.nodes import to_documents as of_nodes
from homer_integrations.shared.documents import to_homer_documents
from homer_integrations.shared.identity import digest_of_documents
from homer_integrations.shared.marks import PLACE, make_mark, read_mark

QUESTION = "What is the door code?"
TEXTS = ["The house is old. Nobody lives there.", "Doors are green.", "The door code is 48213.", "It rained all day."]
STRONG = Question(prior=8.0)


def scored(*scores: float | None) -> list[dict[str, object]]:
    return [{"text": text} | ({} if s is None else {"score": s}) for text, s in zip(TEXTS, scores, strict=True)]


def ranks_of(*scores: float | None) -> list[int] | None:
    origins = torch.tensor([[number, 0, 1] for number in range(len(TEXTS))])
    ranks = document_ranks(to_documents(scored(*scores)), origins)
    return None if ranks is None else ranks.tolist()


def test_ranks_are_those_of_the_scores_whatever_their_scale() -> None:
    assert ranks_of(0.2, -7.0, np.float32(3.5), 0.2) == [2, 4, 1, 2]
    assert ranks_of(None, 5, 7, None) == [1, 2, 1, 1], "in the middle"
    assert ranks_of(None, None, None, None) is None
    for bad in (float("nan"), "high", True):
        with pytest.raises(InputError, match="the score of document 2"):
            to_documents(scored(None, bad, None, None))


def test_ranks_are_checked() -> None:
    assert check_ranks([1, 2], 2).tolist() == [1, 2]
    for bad, message in (([1], "holds 1 for 2 tokens"), ([0, 1], "give ranks that count from 1")):
        with pytest.raises(InputError, match=message):
            check_ranks(bad, 2)


def test_votes_of_rank_r_are_worth_r_to_the_power_of_minus_the_prior() -> None:
    votes, ranks = torch.ones(2, 3), torch.tensor([1, 2, 4])
    assert Question(prior=1.0).weighed(votes, ranks).tolist() == [[1, 0.5, 0.25]] * 2
    assert Question().weighed(votes, ranks) is votes
    assert Question(prior=1.0).weighed(votes, None) is votes
    for bad in (-0.1, 17):
        with pytest.raises(ConfigError, match="is out of range"):
            Question(prior=bad)


def test_a_compressor_weighs_documents(small: HomerModel) -> None:
    config = dataclasses.replace(small.config, significance=STRONG)
    for best in range(len(TEXTS)):
        scores = [1.0 if number == best else 0.0 for number in range(len(TEXTS))]
        assert Compressor(small, config=config).compress(QUESTION, scored(*scores), top_k=1).indices == (best,)
    plain, off = (Compressor(small).score(QUESTION, scored(*s)) for s in ((None,) * 4, (1, 2, 3, 4)))
    assert plain == off, "0 unless asked for"


@pytest.mark.parametrize("best", [0, 3])
def test_ask_weighs_documents(small: HomerModel, best: int) -> None:
    documents = [{"text": f"{text} " * 12, "score": float(n == best)} for n, text in enumerate(TEXTS)]
    prompt = small.build_prompt(QUESTION, documents)
    config = dataclasses.replace(small.config, significance=STRONG)
    cache = small.compress_prompt(prompt, config=config, max_new_tokens=8)
    kept = cache.kept_tokens[cache.prefix_len : len(cache) - cache.suffix_len] - cache.prefix_len
    assert set(prompt.document_numbers[kept].tolist()) == {best}
    encoded = small.encode(documents, config=config)
    assert small.build_prompt(QUESTION, encoded).document_ranks.tolist() == prompt.document_ranks.tolist()


def test_wrappers_hand_scores_over(small: HomerModel) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text), score=float(n)) for n, text in enumerate(TEXTS)]
    assert [document.score for document in of_nodes(nodes)] == [0, 1, 2, 3]
    nodes[0].score = float("nan")
    assert of_nodes(nodes)[0].score is None, "as a retriever says that it has none"
    reranker = HomerPostprocessor(model=small, keep="documents", top_k=1, prior=8.0)
    (best,) = reranker.postprocess_nodes(nodes, query_str=QUESTION)
    assert best.node is nodes[3].node
    found = [Retrieved(page_content=text, metadata={"bm25": -n}) for n, text in enumerate(TEXTS)]
    assert [document.score for document in to_homer_documents(found, "bm25")] == [0, -1, -2, -3]
    assert to_homer_documents(found)[0].score is None
    compressor = HomerDocumentCompressor(model=small, top_k=1, prior=8.0, score_key="bm25")
    assert compressor.compress_documents(found, QUESTION)[0].metadata["bm25"] == 0


@pytest.mark.parametrize("none", [float("nan"), np.float32("nan"), np.float64("-inf"), None])
def test_what_retrievers_give_for_no_score_is_none(none: object) -> None:
    nodes = [NodeWithScore(node=TextNode(text="a")), NodeWithScore(node=TextNode(text="b"), score=2)]
    nodes[0].score = none  # type: ignore[assignment]
    assert [document.score for document in of_nodes(nodes)] == [None, 2]
    found = [
        Retrieved(page_content="a", metadata={"s": none}),
        Retrieved(page_content="b", metadata={"s": np.int64(2)}),
    ]
    assert [document.score for document in to_homer_documents(found, "s")] == [None, 2]


def test_a_key_that_no_document_has_is_said(small: HomerModel, caplog: pytest.LogCaptureFixture) -> None:
    found = [Retrieved(page_content="a", metadata={"score": 1.0})]
    HomerDocumentCompressor(model=small, top_k=1, score_key="scores").compress_documents(found, QUESTION)
    assert "score_key='scores': none of 1 documents has a score there" in caplog.text
    caplog.clear()
    prompt = ChatPromptTemplate([("human", "{context} {input}")])
    chain = create_homer_documents_chain(ChatHomer(model=small, max_tokens=2), prompt, score_key="bm25")
    chain.invoke({"context": found, "input": "?"})
    assert "score_key='bm25': none of 1 documents" in caplog.text


def test_a_mark_keeps_scores_and_a_digest_tells_them_apart() -> None:
    documents = (Document("one", score=0.5), Document("two"))
    text = "".join(document.render() for document in documents)
    read = read_mark(text, make_mark(text, PLACE, documents))
    assert read is not None
    assert [document.score for document in read[1]] == [0.5, None]
    assert digest_of_documents(documents) != digest_of_documents((Document("one"), Document("two")))
