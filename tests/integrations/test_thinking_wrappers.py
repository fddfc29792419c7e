"""What a model thinks, as LangChain, LlamaIndex and OpenAI's clients have it; and given back by them."""

import asyncio
import functools
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ThinkingBlock
from llama_index.core.tools import FunctionTool

from homer import HomerModel, InputError
from homer_integrations.langchain import ChatHomer
from homer_integrations.langchain import HomerLLM as StringHomer
from homer_integrations.llama_index import HomerLLM
from homer_integrations.llama_index.nodes import to_conversation as from_llama_index
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.server import Server
from homer_integrations.shared.conversation import to_conversation
from homer_integrations.shared.settings import as_mapping
from tests.serving import running
from tests.thinkers import ANSWER, THOUGHT, thinking_model

DOCUMENTS = ["The dewar holds 35 litres. " * 5] * 20
ASKED = "How much does it hold?"
OFF: dict[str, Any] = {"enable_thinking": False}


@pytest.fixture(scope="module")
def thinker() -> HomerModel:
    return thinking_model()


@pytest.fixture(scope="module")
def server(thinker: HomerModel) -> Iterator[Server]:
    with running(ServeSettings(model=thinker, served_name="thinker", timeout=300)) as started:
        yield started


def test_langchain(thinker: HomerModel) -> None:
    chat = ChatHomer(model=thinker)
    whole = chat.invoke(ASKED, documents=DOCUMENTS)
    assert (whole.text, whole.additional_kwargs["reasoning_content"]) == (ANSWER, THOUGHT)
    assert whole.content_blocks[0] == {"type": "reasoning", "reasoning": THOUGHT}
    assert whole.usage_metadata["output_token_details"] == {"reasoning": 5}
    chunks = list(chat.stream(ASKED, documents=DOCUMENTS))
    assert sum("reasoning_content" in chunk.additional_kwargs for chunk in chunks) == 3
    assert all(not chunk.text for chunk in chunks if chunk.additional_kwargs)
    joined = functools.reduce(AIMessageChunk.__add__, chunks)
    assert joined.content_blocks == whole.content_blocks

    async def later() -> list[Any]:
        return [await chat.ainvoke(ASKED, documents=DOCUMENTS), *[c async for c in chat.astream(ASKED)]]

    again, *rest = asyncio.run(later())
    assert again.content_blocks == whole.content_blocks
    assert functools.reduce(AIMessageChunk.__add__, rest).additional_kwargs == whole.additional_kwargs


def test_langchain_without_thoughts_and_with_standard_blocks(thinker: HomerModel) -> None:
    off = ChatHomer(model=thinker, chat_template_kwargs=OFF)
    assert off.invoke(ASKED).additional_kwargs == {}
    assert off.invoke(ASKED, chat_template_kwargs={"enable_thinking": True}).additional_kwargs
    standard = ChatHomer(model=thinker, output_version="v1")
    blocks = [{"type": "reasoning", "reasoning": THOUGHT}, {"type": "text", "text": ANSWER}]
    assert standard.invoke(ASKED).content == blocks
    joined = functools.reduce(AIMessageChunk.__add__, standard.stream(ASKED))
    assert [{k: v for k, v in block.items() if k != "index"} for block in joined.content] == blocks
    with pytest.raises(InputError, match="enable_thought"):
        ChatHomer(model=thinker, chat_template_kwargs={"enable_thought": True}).invoke(ASKED)
    strings = StringHomer(model=thinker)
    assert strings.invoke(ASKED) == "".join(strings.stream(ASKED)) == ANSWER
    assert strings.generate([ASKED]).generations[0][0].generation_info["reasoning_content"] == THOUGHT


def test_langchain_history(thinker: HomerModel) -> None:
    chat = ChatHomer(model=thinker)
    answer = chat.invoke(ASKED)
    blocks = AIMessage([{"type": "reasoning", "reasoning": THOUGHT}, {"type": "text", "text": ANSWER}])
    for said in (answer, blocks):
        messages = [HumanMessage(ASKED), said, HumanMessage("And now?")]
        (_, earlier, _) = to_conversation(messages).messages
        assert earlier == {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}
        assert chat.invoke(messages).text == ANSWER
    with pytest.raises(InputError, match="'reasoning'"):
        chat.invoke([HumanMessage([{"type": "reasoning", "reasoning": "a"}, {"type": "text", "text": "b"}])])


def test_llama_index(thinker: HomerModel) -> None:
    llm = HomerLLM(model=thinker)
    asked = [ChatMessage(role="user", content=ASKED)]
    whole = llm.chat(asked, documents=DOCUMENTS)
    assert whole.message.blocks == [ThinkingBlock(content=THOUGHT), TextBlock(text=ANSWER)]
    assert whole.message.content == ANSWER
    *parts, last = llm.stream_chat(asked, documents=DOCUMENTS)
    thought = [part.additional_kwargs["thinking_delta"] for part in parts if part.additional_kwargs]
    assert "".join(thought) == THOUGHT
    assert "".join(part.delta for part in parts) == ANSWER
    assert last.message == whole.message
    assert last.raw["usage"]["reasoning_tokens"] == 5
    assert llm.chat(asked, chat_template_kwargs=OFF).message.blocks == [TextBlock(text=ANSWER)]
    completion = llm.complete(ASKED)
    assert (completion.text, completion.additional_kwargs) == (ANSWER, {"reasoning": THOUGHT})
    (_, earlier, _) = from_llama_index([*asked, whole.message, *asked]).messages
    assert earlier == {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT}


def test_a_function_agent_hears_the_thoughts(thinker: HomerModel) -> None:
    pytest.importorskip("llguidance")
    tool = FunctionTool.from_defaults(lambda: 1, name="unasked", description="Of no use.")

    async def run() -> tuple[str, str]:
        handler = FunctionAgent(tools=[tool], llm=HomerLLM(model=thinker)).run(ASKED)
        events = [event async for event in handler.stream_events()]
        thought = [event.thinking_delta or "" for event in events if isinstance(event, AgentStream)]
        return "".join(thought), str(await handler)

    assert asyncio.run(run()) == (THOUGHT, ANSWER)


def test_http(server: Server) -> None:
    client = openai.OpenAI(base_url=server.url, api_key="any", max_retries=0)
    create = functools.partial(
        client.chat.completions.create, model="thinker", messages=[{"role": "user", "content": ASKED}]
    )
    whole = create(extra_body={"documents": DOCUMENTS})
    message = whole.choices[0].message
    assert (message.content, message.reasoning_content) == (ANSWER, THOUGHT)
    assert whole.usage.completion_tokens_details.reasoning_tokens == 5
    deltas = [chunk.choices[0].delta for chunk in create(stream=True, extra_body={"documents": DOCUMENTS})]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == THOUGHT
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    for off in ({"extra_body": {"chat_template_kwargs": OFF}}, {"reasoning_effort": "none"}):
        said = create(**off).choices[0].message
        assert (said.content, "reasoning_content" in said.model_extra) == (ANSWER, False)
    history = [{"role": "user", "content": ASKED}, message.model_dump(), {"role": "user", "content": "And now?"}]
    assert create(messages=history).choices[0].message.content == ANSWER
    text = client.completions.create(model="thinker", prompt=ASKED)
    assert text.choices[0].text == ANSWER
    for wrong in ({"chat_template_kwargs": {"enable_thought": 1}}, {"chat_template_kwargs": [1]}):
        with pytest.raises(openai.BadRequestError, match="chat_template_kwargs"):
            create(extra_body=wrong)


def test_the_servers_own_variables_are_checked_when_it_starts(thinker: HomerModel) -> None:
    from homer_integrations.serve.engine import Engine

    with pytest.raises(InputError, match="enable_thought"):
        Engine(ServeSettings(model=thinker, chat_template_kwargs={"enable_thought": True}))


def test_a_mapping_is_a_mapping() -> None:
    assert as_mapping("x", None) == {}
    with pytest.raises(InputError, match="x is a list"):
        as_mapping("x", [1])
