"""The wrappers' small parts, each by itself: what they tell of an answer, and how they tell calls apart."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from llama_index.core.base.llms.types import ChatMessage, DocumentBlock, MessageRole
from llama_index.core.base.response.schema import Response
from llama_index.core.llms import TextBlock
from llama_index.core.schema import NodeWithScore, TextNode

from homer import Answer, Document, HomerModel, InputError, Passage, Source, Usage
from homer_integrations.langchain.base import metadata_of, usage_of
from homer_integrations.langchain.messages import as_asked
from homer_integrations.llama_index import TEXT_QA_TEMPLATE, HomerLLM
from homer_integrations.llama_index.nodes import text_of, to_conversation, to_documents, whole_nodes
from homer_integrations.llama_index.request import Request
from homer_integrations.llama_index.survival import Survival
from homer_integrations.shared.facts import facts_of, sources_of
from homer_integrations.shared.identity import NotPlainError, digest_of, identity_of, plain, shown
from homer_integrations.shared.ray import without_reports


def answer_of(count: int) -> Answer:
    passage = Passage(start=0, end=9, text="some text", tokens=3, kept=2, relevance=0.1, spans=((0, 4),))
    sources = tuple(Source(n, f"{n}.md", 300, 2, 1 / (n + 1), (passage,)) for n in range(count))
    return Answer("yes", sources, Usage(input_tokens=900, kept_tokens=90, output_tokens=1, cached_tokens=7), "stop")


def test_sources_ride_along_in_little_room_and_say_what_stayed_out() -> None:
    few = sources_of(answer_of(3))
    assert [source["title"] for source in few["sources"]] == ["0.md", "1.md", "2.md"]
    assert few["sources"][0]["spans"] == [[0, 4]]
    assert "left_out" not in few
    many = sources_of(answer_of(500))
    assert len(json.dumps(many)) < 10_000
    assert many["left_out"]["sources"] == 500 - len(many["sources"])
    assert len(facts_of(answer_of(500), trace=False)["sources"]) == 500


def test_langchain_is_told_of_tokens_before_compression() -> None:
    facts = metadata_of(answer_of(1), "mini", trace=False)
    assert (facts["model_name"], facts["input_tokens"], facts["kept_tokens"]) == ("mini", 900, 90)
    assert "homer" not in facts
    usage = usage_of(answer_of(1))
    assert (usage["input_tokens"], usage["total_tokens"]) == (900, 901)
    assert usage["input_token_details"]["cache_read"] == 7


def test_messages_come_to_one_form_whatever_they_carry() -> None:
    plainly, others = as_asked([SystemMessage("be short"), HumanMessage("why?")], {"documents": ["text"], "stop": "x"})
    assert others == {"stop": "x", "documents": (Document("text"),)}
    carried = HumanMessage("why?", id="7", additional_kwargs={"documents": ["text"]})
    again, same = as_asked([SystemMessage("be short", name="n"), carried], {"stop": "x"})
    assert ([m.content for m in again], same) == ([m.content for m in plainly], others)
    assert as_asked([HumanMessage("a"), AIMessage("b", response_metadata={"x": 1}), HumanMessage("c")], {})[1] == {}


def test_nodes_are_documents_and_messages_are_text() -> None:
    node = TextNode(text="said", metadata={"file_name": "a.md"})
    assert [(d.text, d.title) for d in to_documents([node, "plain"])] == [
        ("file_name: a.md\n\nsaid", "a.md"),
        ("plain", None),
    ]
    assert [scored.node.get_content() for scored in whole_nodes(["one", node])] == ["one", "said"]
    with pytest.raises(InputError, match="0 documents"):
        whole_nodes([])
    message = ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text="a"), TextBlock(text="b")])
    assert text_of(message) == "a\nb"
    (told,) = to_conversation([ChatMessage(role=MessageRole.TOOL, content="x")]).messages
    assert (told["role"], told["content"]) == ("tool", "x")
    block = DocumentBlock(data=b"the text", document_mimetype="text/plain", title="t.txt")
    talk = to_conversation([ChatMessage(role=MessageRole.USER, blocks=[block, TextBlock(text="what?")])])
    assert [document.text for document in talk.documents] == ["the text"]


def test_every_node_of_a_response_learns_what_became_of_it_and_the_retrievers_does_not() -> None:
    nodes = [NodeWithScore(node=TextNode(text="a", metadata={"file_name": "a.md"}), score=1.0)]
    survival = Survival(nodes)
    response = Response("yes", source_nodes=nodes)
    survival.attach(response)
    survival.answered({"sources": [{"index": 0, "tokens": 9, "kept": 4, "relevance": 0.5}]})
    assert survival.titles == ["a.md"]
    assert response.source_nodes[0].node.metadata["homer_kept"] == 4
    assert "homer_kept" not in nodes[0].node.metadata
    assert response.metadata["homer"]["sources"][0]["tokens"] == 9


def test_a_question_without_text_is_known_to_be_empty(mini: HomerModel) -> None:
    llm, arguments = HomerLLM(model=mini), ("why?",)
    assert Request(llm, TEXT_QA_TEMPLATE, *arguments, [" ", ""], Survival([]), {}).empty
    asked = Request(llm, TEXT_QA_TEMPLATE, *arguments, ["because"], Survival([]), {})
    assert not asked.empty
    assert "because" in asked.messages[-1].content
    assert "why?" in asked.messages[-1].content


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, {1, 2, 3}),
        (torch.ones(2), torch.ones(2)),
        (Path("a"), "a"),
    ],
)
def test_like_values_are_one(one: Any, other: Any) -> None:
    assert digest_of(plain(one)) == digest_of(plain(other))


def test_what_nothing_tells_from_another_is_not_plain() -> None:
    with pytest.raises(NotPlainError):
        plain(object())
    assert shown(test_like_values_are_one) == "test_like_values_are_one"
    assert digest_of(plain(torch.ones(2))) != digest_of(plain(torch.zeros(2)))


def test_a_model_is_known_by_what_it_answers_by(mini: HomerModel) -> None:
    assert identity_of(mini) == identity_of(HomerModel.from_pretrained("mini"))
    assert identity_of(HomerModel(mini.model, mini.tokenizer, calibration=False)) != identity_of(mini)


@pytest.mark.parametrize(("said", "expected"), [(None, "0"), ("1", "1")])
def test_ray_reports_nothing_unless_told_to(said: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    if said is not None:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", said)
    without_reports()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == expected
