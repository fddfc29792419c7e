"""Sources of all documents at once are those that one document after the other gives, and traces wait."""

import copy
import dataclasses
import pickle
import random
from typing import Any

import pytest
import torch
from small import load_benchmark
from transformers import AutoTokenizer

from homer import Answer, Document, Prompt
from homer.backends.loading import MINI
from homer.generation import answer_stream
from homer.generation.stream import Generation
from homer.text.prompt import PLACE, PromptBuilder, asking
from homer.view.answer import Traceable
from homer.view.sources import paragraphs, trace_sources
from homer.view.trace import trace_documents

BUILDER = PromptBuilder(AutoTokenizer.from_pretrained(MINI))
PARTS = ["One é 日本 🙂.", "\r\n\r\n", "\u2028", "\n", " ", "Facts of all kinds. ", "\n \n", "x", "<|end|>", "a\nb"]


def random_prompt(seed: int) -> Prompt:
    draw = random.Random(seed)
    texts = ["".join(draw.choices(PARTS, k=draw.randrange(60))) for _ in range(draw.randrange(1, 12))] + ["Last. " * 40]
    documents = [Document(text, draw.choice([None, "T"]), after=draw.choice(["\n\n", ""])) for text in texts]
    order = list(range(len(documents)))
    if seed % 2:
        draw.shuffle(order)  # as the history stands before documents
    return BUILDER.around(asking([{"role": "user", "content": "Why?"}], PLACE), documents, PLACE, order)


def simple_sources(prompt: Prompt, cache: Any) -> list[dict[str, Any]]:
    """Token by token, in plain Python."""
    relevance = dict(zip((cache.kept_tokens - cache.prefix_len).tolist(), cache.relevance.tolist(), strict=True))
    found = []
    for index, document in enumerate(prompt.documents):
        rows = enumerate(prompt.origins.tolist())
        mine = [(place, a, b) for place, (number, a, b) in rows if number == index and b > a]
        passages = []
        for start, stop in paragraphs(document.text):
            inside = [(place, a, b) for place, a, b in mine if b > start and a < stop]
            kept = [(place, max(a, start), min(b, stop)) for place, a, b in inside if place in relevance]
            covered = sorted({i for _, a, b in kept for i in range(a, b)})
            share = sum(relevance[place] for place, _, _ in kept)
            passages += [(start, stop, len(inside), len(kept), pytest.approx(share), covered)] if kept else []
        kept = [place for place, _, _ in mine if place in relevance]
        total = pytest.approx(sum(relevance[place] for place in kept))
        found.append({"title": document.title, "sizes": (len(mine), len(kept)), "share": total, "passages": passages})
    return found


@pytest.mark.parametrize("seed", range(12))
def test_sources_are_those_of_the_simple_way(seed: int) -> None:
    prompt = random_prompt(seed)
    cache = load_benchmark("overhead").made_up_cache(prompt, kept=len(prompt) * 3 // 4)
    sources, expected = trace_sources(prompt, cache), simple_sources(prompt, cache)
    assert [source.relevance for source in sources] == sorted((s.relevance for s in sources), reverse=True)
    for source in sources:
        simple = expected[source.index]
        assert (source.title, (source.tokens, source.kept)) == (simple["title"], simple["sizes"])
        assert source.relevance == simple["share"]
        assert [p.relevance for p in source.passages] == sorted((p.relevance for p in source.passages), reverse=True)
        by_place = sorted(source.passages, key=lambda passage: passage.start)
        facts = [
            (p.start, p.end, p.tokens, p.kept, p.relevance, [i for a, b in p.spans for i in range(a, b)])
            for p in by_place
        ]
        assert facts == simple["passages"]
        for p in source.passages:
            assert p.text == prompt.documents[source.index].text[p.start : p.end]
            assert all(b < c for (_, b), (c, _) in zip(p.spans, p.spans[1:], strict=False))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[Answer, Any, list[int]]:
    """An answer, the trace it should have, and a list that grows whenever a trace is made."""
    prompt = random_prompt(4)
    cache = load_benchmark("overhead").made_up_cache(prompt, kept=len(prompt) * 3 // 4)
    expected, calls = trace_documents(prompt, cache), []
    trace = Traceable.trace
    monkeypatch.setattr(Traceable, "trace", lambda self: calls.append(1) or trace(self))
    return answer_stream.make_answer(prompt, cache, Generation("yes", [1], "stop")), expected, calls


def test_a_trace_is_made_once_and_when_asked_for(made: tuple[Answer, Any, list[int]]) -> None:
    answer, expected, calls = made
    assert "trace" not in repr(answer)
    assert dataclasses.replace(answer, trace=None).trace is None
    assert not calls
    assert answer.trace == expected
    assert answer.trace is answer.trace
    assert len(calls) == 1
    assert Answer("", (), answer.usage, "stop").trace is None


def test_answers_travel_with_their_traces(made: tuple[Answer, Any, list[int]]) -> None:
    answer, expected, _ = made
    again = pickle.loads(pickle.dumps(answer))
    assert vars(again)["trace"] == expected
    assert again == answer == copy.deepcopy(answer)
    assert Answer.from_dict(answer.to_dict()) == answer
    assert hash(again) == hash(answer)


def test_a_waiting_trace_holds_no_states(made: tuple[Answer, Any, list[int]]) -> None:
    waiting = vars(made[0])["trace"]
    sizes = [tensor.numel() for tensor in (*waiting.cache.keys, *waiting.cache.values, waiting.cache.logits)]
    assert sum(sizes) == 0
    assert isinstance(waiting.cache.survived, torch.Tensor)
