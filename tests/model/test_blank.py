"""One blank page ends nothing, by whatever road it comes: it is left out, and the log and the sources say so."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document as Page
from langchain_core.messages import HumanMessage
from langchain_core.prompts import PromptTemplate
from llama_index.core.base.llms.types import ChatMessage, DocumentBlock, TextBlock
from llama_index.core.schema import NodeWithScore, TextNode

from homer import Document, HomerModel, InputError, StateStore, show
from homer.cli import main
from homer_integrations import llama_index
from homer_integrations.langchain import ChatHomer, HomerLLM, create_homer_documents_chain
from homer_integrations.serve.documents import to_conversation

FACT = "The door code for the northern archive is 48213."
QUESTION = "What is the door code for the northern archive?"
LONG = f"{'The barn was painted red in spring. ' * 150}\n\n{FACT}"
TITLED = [Document("  \n", "blank.txt"), Document(LONG, "doors.txt"), Document("", "void.txt")]
ONLY_BLANK = [Document(" ", "blank.txt"), Document("\n\t", "void.txt")]
TEMPLATE = PromptTemplate.from_template("{context}\n\nQuestion: {input}")


def pages(documents: Iterable[Document]) -> list[Page]:
    return [Page(document.text, metadata={"title": document.title}) for document in documents]


def blocks(documents: Iterable[Document]) -> list[Any]:
    parts = [{"type": "text-plain", "text": d.text, "title": d.title, "mime_type": "text/plain"} for d in documents]
    return [HumanMessage([*parts, {"type": "text", "text": QUESTION}])]


def nodes(documents: Iterable[Document]) -> list[NodeWithScore]:
    hidden = {"excluded_llm_metadata_keys": ["title"]}
    return [NodeWithScore(node=TextNode(text=d.text, metadata={"title": d.title}, **hidden)) for d in documents]


def document_blocks(documents: Iterable[Document]) -> ChatMessage:
    kind = {"document_mimetype": "text/plain"}
    found = [DocumentBlock(data=d.text.encode(), title=d.title, **kind) for d in documents]
    return ChatMessage(role="user", blocks=[*found, TextBlock(text=QUESTION)])


def served(model: HomerModel, documents: Iterable[Document]) -> Any:
    given = [{"title": d.title, "text": d.text} for d in documents]
    messages, found = to_conversation([{"role": "user", "content": QUESTION}], given)
    return model.stream_prompt(model.build_chat_prompt(messages, found), max_new_tokens=8).answer()


ROADS: dict[str, Any] = {
    "ask": lambda m, ds: m.ask(QUESTION, ds, max_new_tokens=8),
    "encode": lambda m, ds: m.ask(QUESTION, m.encode(ds), max_new_tokens=8),
    "encode by document": lambda m, ds: m.ask(QUESTION, m.encode(ds, align="documents"), max_new_tokens=8),
    "the server": served,
    "ChatHomer": lambda m, ds: ChatHomer(model=m, max_tokens=8).invoke(QUESTION, documents=pages(ds)),
    "its reuse": lambda m, ds: ChatHomer(model=m, max_tokens=8, reuse=StateStore()).invoke(QUESTION, documents=ds),
    "its blocks": lambda m, ds: ChatHomer(model=m, max_tokens=8).invoke(blocks(ds)),
    "LangChain's HomerLLM": lambda m, ds: HomerLLM(model=m, max_tokens=8).invoke(QUESTION, documents=ds),
    "the chain": lambda m, ds: create_homer_documents_chain(ChatHomer(model=m, max_tokens=8), TEMPLATE).invoke(
        {"context": pages(ds), "input": QUESTION}
    ),
    "LlamaIndex's HomerLLM": lambda m, ds: llama_index.HomerLLM(model=m, max_tokens=8).complete(QUESTION, documents=ds),
    "its document blocks": lambda m, ds: llama_index.HomerLLM(model=m, max_tokens=8).chat([document_blocks(ds)]),
    "its engine": lambda m, ds: llama_index.HomerQueryEngine.from_documents(
        nodes(ds), llama_index.HomerLLM(model=m, max_tokens=8)
    ).query(QUESTION),
}


def sources_of(answer: Any) -> list[tuple[str, int]] | None:
    """(title, tokens) of all sources, in the documents' order; None for an answer that is only text."""
    raw = getattr(answer, "raw", None) or getattr(answer, "metadata", None)
    if hasattr(answer, "sources"):
        found = [(s.index, s.title, s.tokens) for s in answer.sources]
    elif hasattr(answer, "response_metadata") or raw:
        told = answer.response_metadata if hasattr(answer, "response_metadata") else raw["homer"]
        found = [(s["index"], s["title"], s["tokens"]) for s in told["sources"]]
    else:
        return None
    return [(title, tokens) for _, title, tokens in sorted(found)]


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
def test_a_blank_document_is_left_out_and_named(mini: HomerModel, road: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "homer"):
        answer = road(mini, TITLED)
    assert "48213" in str(getattr(answer, "content", None) or answer)
    (record,) = [record for record in caplog.records if record.name.startswith("homer")]
    assert record.getMessage() == "2 of 3 documents hold no text and are left out: blank.txt, void.txt"
    sources = sources_of(answer)
    if sources is not None:
        assert [title for title, _ in sources] == ["blank.txt", "doors.txt", "void.txt"]
        assert [tokens > 0 for _, tokens in sources] == [False, True, False]
        assert sources[0][1] == sources[2][1] == 0


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
def test_nothing_but_blank_documents_is_an_error_that_names_them(mini: HomerModel, road: Any) -> None:
    with pytest.raises(InputError, match=r"of 2 documents, 0 hold text \(blank.txt, void.txt\): give at least one"):
        road(mini, ONLY_BLANK)


@pytest.mark.parametrize("kind", [ChatHomer, HomerLLM])
def test_one_blank_document_alone_in_the_chain_is_an_error(mini: HomerModel, kind: Any) -> None:
    chain = create_homer_documents_chain(kind(model=mini), TEMPLATE)
    with pytest.raises(InputError, match=r"of 1 documents, 0 hold text \(void\)"):
        chain.invoke({"context": [Page("", metadata={"title": "void"})], "input": QUESTION})


def test_the_prompt_is_that_of_the_others(mini: HomerModel) -> None:
    whole, rest = (mini.build_prompt(QUESTION, documents) for documents in (TITLED, TITLED[1:2]))
    assert whole.context_ids.equal(rest.context_ids)
    assert set(whole.origins[:, 0].tolist()) == {1}


def test_many_are_named_by_number_and_counted(mini: HomerModel) -> None:
    with pytest.raises(InputError, match=r"of 30 documents, 0 hold text \(document 1, .*, document 20 and 10 more\)"):
        mini.build_prompt(QUESTION, [" "] * 30)


def test_an_answer_with_a_blank_document_is_drawn(mini: HomerModel, tmp_path: Path) -> None:
    answer = mini.ask(QUESTION, TITLED, max_new_tokens=8)
    show(answer.to_dict(), tmp_path / "answer.html")
    assert "blank.txt" in (tmp_path / "answer.html").read_text()


def test_a_folder_with_a_blank_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    folder, store = tmp_path / "pages", str(tmp_path / "store")
    folder.mkdir()
    for document in TITLED:
        (folder / str(document.title)).write_text(document.text)
    ask = ["ask", "--question", QUESTION, "--json", "--no-progress", "--max-new-tokens", "8"]
    for files in ([str(folder)], ["--store", store]):
        if files[0] == "--store":
            assert main(["index", str(folder), "--out", store, "--no-progress"]) == 0
            assert capsys.readouterr().out.startswith("1 documents")
        caplog.clear()
        assert main([*ask, *files]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["text"].rstrip(".") == "48213"
        assert {s["title"]: s["tokens"] > 0 for s in answer["sources"]} == {
            "blank.txt": False, "doors.txt": True, "void.txt": False,
        }  # fmt: skip
        assert len([record for record in caplog.records if "hold no text" in record.getMessage()]) == 1
    (folder / "doors.txt").write_text("")
    assert main([*ask, str(folder)]) == 2
    assert "of 3 documents, 0 hold text (blank.txt, doors.txt, void.txt)" in capsys.readouterr().err


def test_blank_nodes_are_ingested_as_they_are(mini: HomerModel, caplog: pytest.LogCaptureFixture) -> None:
    given = [scored.node for scored in nodes(TITLED)]
    llm = llama_index.HomerLLM(model=mini, max_tokens=8, reuse=StateStore())
    with caplog.at_level(logging.WARNING, "homer_integrations"):
        assert llama_index.HomerEncoder(llm=llm)(given) == given
    assert [record.getMessage() for record in caplog.records] == [
        f"2 of 3 nodes hold no text and are left out: {given[0].node_id}, {given[2].node_id}"
    ]
