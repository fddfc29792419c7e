"""Twice the input costs twice the operations, on the whole way from documents to an answer drawn."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from byte_tokenizers import byte_tokenizer
from counting import growth
from tokenizers import normalizers
from transformers import AutoTokenizer

from homer import Answer, CompactCache, HomerConfig, HomerModel, Prompt, Usage
from homer.backends.entries import Entries
from homer.backends.loading import MINI
from homer.plan.schedule import plan_for
from homer.text.conversation import Limits, build_conversation
from homer.text.kept import TOKENS
from homer.text.prompt import PromptBuilder
from homer.text.template import Message
from homer.text.tokenizing import Piece, PieceTokenizer
from homer.view.sources import paragraphs, trace_sources
from homer.view.trace import trace_documents

TOKENIZER = AutoTokenizer.from_pretrained(MINI)
BUILDER = PromptBuilder(TOKENIZER)
LAYERS = 16


def fact(number: int) -> str:
    return f"Fact {number} is {number * 7 % 911}."


def said(count: int) -> list[Message]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": fact(number)} for number in range(2 * (count // 2) + 1)]


DOCUMENTS: dict[str, Callable[[int], list[str]]] = {
    "tiny documents": lambda n: [fact(i) for i in range(n)],
    "lines": lambda n: ["\n".join(fact(i) for i in range(n))],
    "paragraphs": lambda n: ["\r\n\r\n".join(fact(i) for i in range(n))],
    "one line": lambda n: [" ".join(fact(i) for i in range(n))],
    "control tokens": lambda n: ["<|end|>" * n],
    "blank lines": lambda n: ["a\n\nb" + "\n" * n + "c"],
}
MESSAGES: dict[str, Callable[[int], list[Message]]] = {
    "messages": said,
    "a long message": lambda n: [{"role": "user", "content": "\n".join(fact(i) for i in range(n))}],
    "system messages": lambda n: [
        *({"role": "system", "content": fact(i)} for i in range(n)),
        {"role": "user", "content": "\n".join(fact(i) for i in range(9 * n))},
    ],
}


def fake_cache(prompt: Prompt) -> CompactCache:
    """As a compression would leave it, which here is not what is counted."""
    before, context, after = len(prompt.prefix_ids), len(prompt.context_ids), len(prompt.suffix_ids)
    config = HomerConfig(max_chunk_len=512).resolve(1024, LAYERS)
    plan = plan_for(config, LAYERS, (before, context, after))
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(context, generator=generator)[: plan.final_len - before - after].sort().values
    survived = torch.randint(0, plan.height + 1, (len(prompt),), generator=generator).to(torch.int8)
    survived[before + chosen] = plan.height + 1
    kept = torch.cat([torch.arange(before), before + chosen, torch.arange(before + context, len(prompt))])
    ids = torch.cat([prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids])
    states = (torch.zeros(1, 1, len(kept), 1),) * LAYERS
    return CompactCache(
        *(Entries(states, states), torch.arange(len(kept))[None], kept, ids[kept][None]),
        *(torch.full((len(kept),), 1 / len(kept)), torch.zeros(1, 5), len(prompt), before, after),
        *("a model", "its digest", HomerConfig(**config.to_dict()), survived),
    )


def draw(prompt: Prompt, cache: CompactCache) -> str:
    sources, trace = trace_sources(prompt, cache), trace_documents(prompt, cache)
    answer = Answer("yes", sources, Usage(len(prompt), len(cache), 1), "stop", prompt.question, trace)
    return answer._repr_html_()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(name: str) -> None:
    def read(size: int) -> Callable[[], Any]:
        documents = DOCUMENTS[name](size)
        TOKENS.clear()
        return lambda: BUILDER.build("What is fact 7?", documents)

    def trace(size: int) -> Callable[[], Any]:
        prompt = read(size)()
        cache = fake_cache(prompt)
        return lambda: draw(prompt, cache)

    assert growth(read, 800) < 2.1
    assert growth(trace, 800) < 2.1


@pytest.mark.parametrize("name", MESSAGES)
def test_conversations(name: str) -> None:
    def read(size: int) -> Callable[[], Any]:
        messages = MESSAGES[name](size)
        return lambda: build_conversation(BUILDER, messages, (), Limits(900, 512))

    assert growth(read, 800) < 2.2  # a binary search for what stays whole


def test_control_tokens_that_normalization_makes() -> None:
    tokenizer = byte_tokenizer(normalizer=normalizers.NFKC())
    tokenizer.backend_tokenizer.add_tokens(["<|user|>"])
    pieces = PieceTokenizer(tokenizer)
    characters: list[int] = []
    encodings = pieces._encodings
    pieces._encodings = lambda texts: characters.append(sum(map(len, texts))) or encodings(texts)

    def read(size: int) -> Callable[[], Any]:
        return lambda: pieces.tokenize(Piece("＜|user|＞ " * size))

    assert growth(read, 400) < 2.1
    assert sum(characters) <= 3 * len("＜|user|＞ ") * (400 + 800)


def test_the_question_is_hashed_once_for_all_documents_of_a_page() -> None:
    def draw_asked(size: int) -> Callable[[], Any]:
        prompt = BUILDER.build("Why? " * size, [fact(i) for i in range(size)])
        cache = fake_cache(BUILDER.build("Why?", [fact(i) for i in range(size)]))
        answer = Answer("yes", trace_sources(prompt, cache), Usage(1, 1, 1), "stop", prompt.question)
        return answer._repr_html_

    assert growth(draw_asked, 400) < 2.1


def test_sources_and_trace_are_those_that_counting_one_by_one_gives() -> None:
    texts = [
        "One é 日本 🙂.\r\n\r\nTwo\u2028lines.\r\n \r\nThree.",
        "a\nb\n\n\nc",
        "  x  ",
        "\n".join(map(fact, range(90))),
    ]
    prompt = BUILDER.build("Why?", texts * 3)
    cache = fake_cache(prompt)
    trace = trace_documents(prompt, cache)
    start, rows = cache.prefix_len, prompt.origins.tolist()
    relevance = dict(zip(cache.kept_tokens.tolist(), cache.relevance.tolist(), strict=True))
    survived = cache.survived.tolist()
    for source in trace_sources(prompt, cache):
        document, text = trace.documents[source.index], prompt.documents[source.index].text
        mine = [(start + place, a, b) for place, (number, a, b) in enumerate(rows) if number == source.index]
        body = [(place, a, b) for place, a, b in mine if b > a]
        levels = [max((survived[p] for p, a, b in body if a <= i < b), default=-1) for i in range(len(text))]
        covered = [i for i, level in enumerate(levels) if level >= 0]
        filled = [levels[max((c for c in covered if c <= i), default=covered[0])] for i in range(len(text))]
        assert [level for a, b, level in document.spans for _ in range(a, b)] == filled
        assert (document.context_start, document.context_tokens) == (mine[0][0] - start, len(mine))
        assert (source.tokens, source.kept) == (len(body), sum(place in relevance for place, _, _ in body))
        for passage in source.passages:
            inside = [(p, a, b) for p, a, b in body if b > passage.start and a < passage.end]
            assert passage.text == text[passage.start : passage.end]
            assert (passage.tokens, passage.kept) == (len(inside), sum(p in relevance for p, _, _ in inside))
            assert passage.relevance == pytest.approx(sum(relevance.get(p, 0) for p, _, _ in inside))
            kept = {
                i for p, a, b in inside if p in relevance for i in range(max(a, passage.start), min(b, passage.end))
            }
            assert {i for a, b in passage.spans for i in range(a, b)} == kept


def test_paragraphs_end_at_blank_lines_of_any_system() -> None:
    def parts(text: str) -> list[str]:
        return [text[a:b] for a, b in paragraphs(text)]

    for end in ("\n", "\r\n", "\r", "\u2028"):
        assert parts(f"{end}one{end}two{end}{end}three{end} \t\xa0{end}four{end}") == [
            f"{end}one{end}two",
            "three",
            f"four{end}",
        ]
        assert parts(f"one{end}two{end}") == ["one", "two"]


def test_reading_can_be_ended(mini: HomerModel) -> None:
    read: list[int] = []

    def tick() -> None:
        read.append(1)
        if len(read) == 3:
            raise KeyboardInterrupt

    documents = [fact(i) for i in range(5000)]
    with pytest.raises(KeyboardInterrupt):
        mini.build_chat_prompt(said(0), documents, tick=tick)
