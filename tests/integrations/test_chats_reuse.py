"""Chats whose documents stay: ten turns with answers of 150 tokens over 14 documents read them at most twice."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core import SummaryIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.schema import TextNode
from serving import TEXTS, running
from small import save_small

from homer import Document, HomerConfig, HomerModel, StateStore
from homer.text.conversation import EARLIER_TITLE
from homer_integrations.langchain import ChatHomer
from homer_integrations.llama_index import HomerLLM
from homer_integrations.serve import ServeSettings

NOTES = [{"title": f"note {n}", "text": text[:500]} for n, text in enumerate(TEXTS[:14])]
QUESTIONS = [f"What is said of matter {n}?" for n in range(10)]
Turn = tuple[list[tuple[str, str]], str]  # earlier questions and answers, and what is asked
Ask = Callable[[list[tuple[str, str]], str], int]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> HomerModel:
    folder = save_small(tmp_path_factory.mktemp("small"), layers=4, window=1024)
    return HomerModel.from_pretrained(folder, calibration=False, config=HomerConfig(layers_warmup=2))


def answer(model: HomerModel, number: int) -> str:
    """150 tokens."""
    ids = model.tokenize(TEXTS[number % len(TEXTS)][600:2000])[:150]
    text: str = model.tokenizer.decode(ids)
    return text.strip()


def turns(model: HomerModel) -> Iterator[Turn]:
    said = [(question, answer(model, n)) for n, question in enumerate(QUESTIONS)]
    return ((said[:n], question) for n, question in enumerate(QUESTIONS))


def messages(earlier: list[tuple[str, str]], question: str) -> list[dict[str, str]]:
    pairs = [({"role": "user", "content": q}, {"role": "assistant", "content": a}) for q, a in earlier]
    return [*(message for pair in pairs for message in pair), {"role": "user", "content": question}]


def langchain(model: HomerModel) -> Ask:
    chat = ChatHomer(model=model, max_tokens=1, reuse=StateStore())

    def ask(earlier: list[tuple[str, str]], question: str) -> int:
        history = [kind(text) for pair in earlier for kind, text in zip((HumanMessage, AIMessage), pair, strict=True)]
        usage: Any = chat.invoke([*history, HumanMessage(question)], documents=NOTES).usage_metadata
        return (usage.get("input_token_details") or {}).get("cache_read", 0)

    return ask


def llama_index(model: HomerModel) -> Ask:
    llm = HomerLLM(model=model, max_tokens=1, reuse=StateStore())
    nodes = [TextNode(text=note["text"], metadata={"title": note["title"]}) for note in NOTES]
    engine = ContextChatEngine.from_defaults(retriever=SummaryIndex(nodes).as_retriever(), llm=llm)
    cached: list[int] = []
    stream = HomerModel.stream_prompt

    def ask(earlier: list[tuple[str, str]], question: str) -> int:
        history = [ChatMessage(**message) for message in messages(earlier, question)[:-1]]
        made: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(HomerModel, "stream_prompt", lambda *a, **k: made.append(stream(*a, **k)) or made[-1])
            engine.chat(question, chat_history=history)
        cached.append(made[-1].cache.cached_tokens)
        return cached[-1]

    return ask


def check(model: HomerModel, ask: Ask) -> None:
    size = sum(len(model.tokenize(note["text"])) for note in NOTES)
    cached = [ask(earlier, question) for earlier, question in turns(model)]
    assert sum(tokens < size for tokens in cached) <= 2, (size, cached)


@pytest.mark.parametrize("way", [langchain, llama_index])
def test_in_python(small: HomerModel, way: Callable[[HomerModel], Ask]) -> None:
    check(small, way(small))


def test_over_http(small: HomerModel) -> None:
    settings = ServeSettings(model=small, served_name="small", states_bytes=2**30, store_bytes=0)
    with running(settings) as server:

        def ask(earlier: list[tuple[str, str]], question: str) -> int:
            body = {"model": "small", "messages": messages(earlier, question), "documents": NOTES, "max_tokens": 1}
            usage = httpx.post(f"{server.url}/chat/completions", json=body, timeout=60).json()["usage"]
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        check(small, ask)


def test_the_history_stands_behind_the_documents_and_nothing_is_lost(small: HomerModel) -> None:
    documents = [Document(**note) for note in NOTES]
    prefixes = set()
    for earlier, question in turns(small):
        prompt = small.build_chat_prompt(messages(earlier, question), documents, documents_first=True)
        text = small.tokenizer.decode(torch.cat([prompt.context_ids, prompt.suffix_ids]))
        assert all(text.count(part) == 1 for pair in earlier for part in pair)
        assert text.index(NOTES[-1]["text"]) < min(
            (text.index(part) for pair in earlier for part in pair), default=len(text)
        )
        assert len(prompt.prefix_ids) + len(prompt.suffix_ids) <= small.chunk_len // 2
        prefixes.add(tuple(prompt.prefix_ids.tolist()))
    assert len(prefixes) == 1
    assert prompt.documents[-1].title == EARLIER_TITLE


def test_answers_are_those_without_what_was_kept(small: HomerModel) -> None:
    store = StateStore()
    for earlier, question in list(turns(small))[::3]:
        prompt = small.build_chat_prompt(messages(earlier, question), NOTES, documents_first=True)
        kept = small.compress_prompt(prompt, store=store)
        anew = small.compress_prompt(prompt, store=StateStore())
        encoded = small.encode_prompt(prompt, StateStore())
        parts = prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids
        config = HomerConfig(layers_warmup=2, suffix_budget=encoded.suffix_budget)
        options = {"document_lens": encoded.document_lens, "question_span": prompt.question_span, "config": config}
        scratch = small.compress(*parts, **options)
        for other in (anew, scratch):
            assert torch.equal(kept.kept_tokens, other.kept_tokens)
            torch.testing.assert_close(kept.logits, other.logits, rtol=1e-4, atol=1e-4)
    assert kept.cached_tokens > anew.cached_tokens == 0
