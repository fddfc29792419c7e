"""ChatHomer's n and logprobs: as LangChain's model of OpenAI has them."""

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessageChunk, HumanMessage

from homer import GenerationError, HomerModel
from homer_integrations.langchain import ChatHomer
from homer_integrations.langchain.choices import Drawn, HomerChoices

ASKED = [HumanMessage("What is the door code?")]


@pytest.fixture
def chat(mini: HomerModel) -> ChatHomer:
    return ChatHomer(model=mini, max_tokens=6, temperature=1.5, seed=2)


def spelled(message: Any) -> str:
    tokens = message.response_metadata["logprobs"]["content"]
    return bytes(byte for token in tokens for byte in token["bytes"]).decode().strip()


def test_generate_gives_several_answers(chat: ChatHomer) -> None:
    (answers,) = chat.generate([ASKED], n=3).generations
    alone = [chat.invoke(ASKED, seed=2 + number).text for number in range(3)]
    assert [answer.text for answer in answers] == alone
    again = chat.model_copy(update={"n": 3}).generate([ASKED]).generations[0]
    assert [answer.text for answer in again] == alone
    assert isinstance(chat, HomerChoices)


async def test_several_answers_without_waiting(chat: ChatHomer) -> None:
    (answers,) = (await chat.agenerate([ASKED], n=2)).generations
    assert len(answers) == 2


async def test_log_probabilities_are_metadata_whole_and_streamed(chat: ChatHomer) -> None:
    whole = chat.invoke(ASKED, logprobs=True, top_logprobs=2)
    assert spelled(whole) == whole.text
    assert all(len(token["top_logprobs"]) == 2 for token in whole.response_metadata["logprobs"]["content"])
    telling = chat.model_copy(update={"logprobs": True, "top_logprobs": 2})
    for chunks in (list(telling.stream(ASKED)), [chunk async for chunk in telling.astream(ASKED)]):
        joined = chunks[0]
        for chunk in chunks[1:]:
            joined += chunk
        assert isinstance(joined, AIMessageChunk)
        assert joined.response_metadata["logprobs"] == whole.response_metadata["logprobs"]
    assert "logprobs" not in chat.invoke(ASKED).response_metadata


def test_calls_have_them_as_well(chat: ChatHomer) -> None:
    def look(code: int) -> int:
        """Look at a door by its code."""
        return code

    bound = chat.bind_tools([look], tool_choice="any").bind(logprobs=True, max_tokens=40)
    chunks = list(bound.stream(ASKED))
    joined = chunks[0]
    for chunk in chunks[1:]:
        joined += chunk
    assert joined.tool_calls[0]["name"] == "look"
    assert '"look"' in spelled(joined)


def test_a_cache_tells_them_apart(mini: HomerModel) -> None:
    chat = ChatHomer(model=mini, max_tokens=6, cache=InMemoryCache())
    assert "logprobs" not in chat.invoke(ASKED).response_metadata
    assert "logprobs" in chat.invoke(ASKED, logprobs=True).response_metadata
    assert len(chat.generate([ASKED], n=2).generations[0]) == 2
    assert len(chat.generate([ASKED]).generations[0]) == 1
    assert chat._drawn({"n": 2, "logprobs": True}) == Drawn(2, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"n": 9}, "n=9"), ({"n": 0}, "n=0"), ({"n": True}, "n=True"), ({"logprobs": 3}, "logprobs=3"),
     ({"top_logprobs": 3}, "logprobs=True"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs=21")],
)  # fmt: skip
def test_what_cannot_be_is_refused(chat: ChatHomer, options: dict[str, Any], words: str) -> None:
    with pytest.raises(GenerationError, match=words):
        chat.invoke(ASKED, **options)


async def test_a_stream_is_one_answer(chat: ChatHomer) -> None:
    with pytest.raises(GenerationError, match="n=2"):
        next(chat.stream(ASKED, n=2))
    with pytest.raises(GenerationError, match="n=2"):
        await anext(chat.astream(ASKED, n=2))
