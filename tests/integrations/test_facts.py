"""What rides along with an answer: little, whatever was read, and never the texts."""

import json
from pathlib import Path

import pytest
from llama_index.core.base.response.schema import Response
from llama_index.core.schema import NodeWithScore, TextNode

from homer import Answer, HomerModel, Passage, Source, Usage
from homer_integrations.langchain import ChatHomer
from homer_integrations.langchain.base import metadata_of
from homer_integrations.llama_index.survival import Survival
from homer_integrations.shared.facts import facts_of


def answer_from(documents: int, passages: int, spans: int) -> Answer:
    def passage(number: int) -> Passage:
        start = 5000 * number
        places = tuple((start + 10 * i, start + 10 * i + 5) for i in range(spans))
        return Passage(start, start + 5000, "x" * 5000, 1000, 100, 1 / (number + 1), places)

    found = tuple(passage(number) for number in range(passages))
    sources = tuple(Source(i, f"folder/document-{i}.md", 1000, 100, 1 / (i + 1), found) for i in range(documents))
    return Answer("word", sources, Usage(1_000_000, 512, 1), "stop")


@pytest.mark.parametrize(
    ("shape", "most"), [((14, 30, 20), 4096), ((1, 1000, 9), 4096), ((1000, 5, 5), 10_000), ((20_000, 1, 1), 10_000)]
)
def test_metadata_is_small_whatever_was_read(shape: tuple[int, int, int], most: int) -> None:
    answer = answer_from(*shape)
    told = metadata_of(answer, "mini", False)
    assert len(json.dumps(told)) < most
    assert "x" * 100 not in json.dumps(told)
    spans = sum(len(source["spans"]) for source in told["sources"])
    assert len(told["sources"]) + told["left_out"]["sources"] == shape[0]
    assert spans + told["left_out"]["spans"] == shape[0] * shape[1] * shape[2]
    assert [source["index"] for source in told["sources"]] == list(range(len(told["sources"])))


def test_a_response_of_many_nodes_is_small_and_every_node_knows() -> None:
    nodes = [NodeWithScore(node=TextNode(text="x"), score=1.0) for _ in range(3000)]
    survival, response = Survival(nodes), Response("word", source_nodes=nodes)
    survival.attach(response)
    survival.answered(facts_of(answer_from(3000, 1, 2), trace=False))
    told = response.metadata["homer"]
    assert len(json.dumps(told)) < 10_000
    assert len(told["sources"]) + told["left_out"]["sources"] == 3000
    assert all(node.node.metadata["homer_kept"] == 100 for node in response.source_nodes)


def test_a_real_answers_metadata(mini: HomerModel, tmp_path: Path) -> None:
    texts = [f"Note {number}. The code of gate {number} is 48{number:03d}.\n\n" * 20 for number in range(14)]
    message = ChatHomer(model=mini, max_tokens=4).invoke("What is the code of gate 3?", documents=texts)
    assert len(json.dumps(message.response_metadata)) < 4096
    assert {source["index"] for source in message.response_metadata["sources"]} == set(range(14))
