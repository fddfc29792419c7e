"""Citations where people see them: LangChain's annotations, LlamaIndex's blocks, a chain's sources."""

import asyncio
from typing import Any

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from llama_index.core.base.llms.types import ChatMessage, CitationBlock, MessageRole

from homer import Answer, Calibration, CalibrationError, Citation, Cited, HomerModel, Usage
from homer_integrations.langchain import ChatHomer, HomerLLM, create_homer_documents_chain
from homer_integrations.langchain.citing import annotations_of
from homer_integrations.langchain.sourced import with_sources
from homer_integrations.llama_index import HomerLLM as LlamaHomer
from homer_integrations.llama_index import HomerQueryEngine
from homer_integrations.llama_index.citing import citation_blocks
from homer_integrations.shared.citing import citations_of, pairs, spoken, within

QUESTION = "What is the door code?"
TEXTS = ["The house is old. Nobody lives there.", "Doors are green. The door code is 48213. Ask for keys."]
DOCUMENTS = [{"title": f"{number}.md", "text": text} for number, text in enumerate(TEXTS)]
PROMPT = ChatPromptTemplate.from_messages([("system", "Answer.\n{context}"), ("human", "{input}")])
RETRIEVED = [Document(page_content=text, metadata={"title": f"{n}.md"}) for n, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def chat(small: HomerModel) -> ChatHomer:
    return ChatHomer(model=small, max_tokens=12)


def answer_of(text: str) -> Answer:
    part = Cited(1, "1.md", 17, 40, TEXTS[1][17:40], 0.5)
    citations = (Citation(0, 9, (part,)), Citation(10, len(text), (part, part)))
    return Answer(text, (), Usage(9, 9, 9), "stop", citations=citations)


def check(told: list[dict[str, Any]], text: str) -> None:
    """Citations as plain values that fit a text and its documents."""
    assert told
    for citation in told:
        assert text[citation["start"] : citation["end"]] == citation["text"]
        for part in citation["cited"]:
            assert TEXTS[part["index"]][part["start"] : part["end"]] == part["text"]
            assert part["title"] == f"{part['index']}.md"


def test_what_calls_tools_is_no_sentence() -> None:
    answer = answer_of("It is so. And so.")
    assert [c["text"] for c in citations_of(answer)] == ["It is so.", "And so."]
    assert len(pairs(answer)) == 3
    assert len(spoken(answer, "It is so.")) == 1
    assert spoken(answer, "Something else") == []


def test_annotations_and_blocks_say_where_both_ends_are() -> None:
    answer = answer_of("It is so. And so.")
    first = annotations_of(answer, answer.text)[0]
    assert (first["type"], first["start_index"], first["end_index"], first["title"]) == ("citation", 0, 9, "1.md")
    assert first["cited_text"] == "The door code is 48213."
    assert first["extras"] == {"document_index": 1, "start": 17, "end": 40, "share": 0.5}
    block = citation_blocks(answer, answer.text)[0]
    assert (block.cited_content.text, block.source, block.title) == ("The door code is 48213.", "1", "1.md")
    assert block.additional_location_info["start_char_index"] == 17


def test_a_message_says_what_it_rests_on(chat: ChatHomer) -> None:
    plain = chat.invoke(QUESTION, documents=DOCUMENTS)
    message = chat.invoke(QUESTION, documents=DOCUMENTS, cite=True)
    assert message.text == plain.text
    assert isinstance(plain.content, str)
    assert "citations" not in plain.response_metadata
    check(message.response_metadata["citations"], message.text)
    (block,) = message.content_blocks
    assert block["type"] == "text"
    assert {a["type"] for a in block["annotations"]} == {"citation"}
    first = block["annotations"][0]
    assert TEXTS[first["extras"]["document_index"]][first["extras"]["start"] :].startswith(first["cited_text"])
    talk = [HumanMessage(QUESTION), message, HumanMessage("Why?")]
    assert chat.invoke(talk, documents=DOCUMENTS).text, "what was cited is no hindrance to the next turn"


@pytest.mark.parametrize("version", [None, "v1"])
def test_a_stream_says_so_at_its_end(small: HomerModel, version: str | None) -> None:
    chat = ChatHomer(model=small, max_tokens=12, cite=True, output_version=version)
    whole = chat.invoke(QUESTION, documents=DOCUMENTS)
    chunks = list(chat.stream(QUESTION, documents=DOCUMENTS))
    added = chunks[0]
    for chunk in chunks[1:]:
        added += chunk
    (block,) = added.content_blocks
    (expected,) = whole.content_blocks
    assert (block["text"], added.text) == (expected["text"], whole.text)
    assert [a["cited_text"] for a in block["annotations"]] == [a["cited_text"] for a in expected["annotations"]]
    assert added.response_metadata["citations"] == whole.response_metadata["citations"]

    async def streamed() -> list[Any]:
        return [chunk async for chunk in chat.astream(QUESTION, documents=DOCUMENTS)]

    assert len(asyncio.run(streamed())) == len(chunks)


def test_a_string_model_tells_it_beside_the_text(small: HomerModel) -> None:
    result = HomerLLM(model=small, max_tokens=12, cite=True).generate([QUESTION], documents=DOCUMENTS)
    generation = result.generations[0][0]
    check(generation.generation_info["citations"], generation.text)


def test_a_model_that_was_not_measured_is_refused_before_any_work(small: HomerModel) -> None:
    bare = HomerModel(small.model, small.tokenizer, small.config, calibration=False)
    prompt = bare.build_prompt(QUESTION, DOCUMENTS)
    bare.check_prompt(prompt)
    with pytest.raises(CalibrationError, match="needs a calibration"):
        bare.stream_prompt(prompt, cite=True)
    assert isinstance(small.calibration, Calibration)


def test_a_chain_keeps_its_sources(chat: ChatHomer) -> None:
    chain = create_homer_documents_chain(chat, PROMPT, return_sources=True)
    given = {"context": RETRIEVED, "input": QUESTION}
    result = chain.invoke(given)
    assert set(result) == {"answer", "context", "citations"}
    assert result["context"] == RETRIEVED
    assert result["answer"] == create_homer_documents_chain(chat, PROMPT).invoke(given)
    check(result["citations"], result["answer"])
    assert asyncio.run(chain.ainvoke(given)) == result
    pieces = list(chain.stream(given))
    assert "".join(piece.get("answer", "") for piece in pieces) == result["answer"]
    assert len(pieces) > 2
    assert pieces[-1]["citations"] == result["citations"]
    retrieval = create_retrieval_chain(RunnableLambda(lambda _: RETRIEVED), chain)
    assert retrieval.invoke({"input": QUESTION})["answer"] == result


def test_only_what_was_given_is_cited(chat: ChatHomer) -> None:
    cited = [{"start": 0, "end": 3, "text": "Yes", "cited": [{"index": 2}, {"index": 0}]}]
    assert within(cited, 3) == cited
    assert within(cited, 1) == [cited[0] | {"cited": [{"index": 0}]}]
    assert within(cited, 0) == []
    prompt = ChatPromptTemplate([("human", "{context}\n\nQuestion: {input}")])
    chain = create_homer_documents_chain(chat, prompt, return_sources=True)
    told = chain.invoke({"context": [], "input": "What is the door code?"})
    assert told["context"] == told["citations"] == []


def test_a_chain_of_another_model_has_sources_and_no_citations() -> None:
    chain = create_homer_documents_chain(FakeListChatModel(responses=["no"]), PROMPT, return_sources=True)
    assert chain.invoke({"context": RETRIEVED, "input": "?"}) == {"answer": "no", "context": RETRIEVED, "citations": []}
    said = RunnableLambda(lambda _: AIMessage("yes", response_metadata={"citations": [1]}))
    found = with_sources(said, StrOutputParser(), "documents").invoke({"documents": iter("ab")})
    assert found == {"answer": "yes", "context": ["a", "b"], "citations": [1]}


def test_llama_index_has_a_block_for_each(small: HomerModel) -> None:
    llm = LlamaHomer(model=small, max_tokens=12, cite=True)
    asked = [ChatMessage(role=MessageRole.USER, content=QUESTION)]
    response = llm.chat(asked, documents=DOCUMENTS)
    blocks = [block for block in response.message.blocks if isinstance(block, CitationBlock)]
    assert blocks
    assert response.message.content == response.raw["homer"]["text"]
    check(response.raw["homer"]["citations"], response.message.content)
    *others, last = llm.stream_chat(asked, documents=DOCUMENTS)
    assert last.message.blocks == response.message.blocks
    assert not any(isinstance(block, CitationBlock) for other in others for block in other.message.blocks)
    again = [*asked, response.message, ChatMessage(role=MessageRole.USER, content="Why?")]
    assert llm.chat(again, documents=DOCUMENTS, cite=False).message.blocks


def test_a_query_engine_cites_its_nodes(small: HomerModel) -> None:
    engine = HomerQueryEngine.from_documents(TEXTS, LlamaHomer(model=small, max_tokens=12, cite=True))
    response = engine.query(QUESTION)
    for citation in response.metadata["homer"]["citations"]:
        for part in citation["cited"]:
            assert part["text"] in response.source_nodes[part["index"]].node.text
