"""LlamaIndex's tools, objects by a schema, and stock engines that choose, with the model that ships."""

import asyncio
from typing import Any, Literal

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ThinkingBlock, ToolCallBlock
from llama_index.core.base.response.schema import PydanticResponse
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.tools.types import ToolMetadata
from pydantic import BaseModel

pytest.importorskip("llguidance")

from homer import GenerationError, InputError
from homer_integrations.llama_index import (
    HomerLLM,
    HomerQueryEngine,
    HomerQuestionGenerator,
    HomerSelector,
    HomerSynthesizer,
)
from homer_integrations.llama_index.nodes import to_conversation
from homer_integrations.llama_index.responses import completion

ASKED = "Add the numbers 3 and 4"
TEXTS = ["The garden is green.", "The door code for the northern archive is 48213."]
QUESTION = "What is the door code for the northern archive?"


class Door(BaseModel):
    """A door."""

    code: str
    wing: Literal["north", "south"]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOL = FunctionTool.from_defaults(add)


@pytest.fixture(scope="module")
def llm() -> HomerLLM:
    return HomerLLM(max_tokens=64)


def arguments_of(llm: HomerLLM, response: Any) -> list[dict[str, Any]]:
    calls = llm.get_tool_calls_from_response(response)
    assert all(call.tool_name == "add" and call.tool_id for call in calls)
    return [call.tool_kwargs for call in calls]


def test_a_required_call_has_valid_arguments_by_all_four_ways(llm: HomerLLM) -> None:
    given: dict[str, Any] = {"tools": [TOOL], "user_msg": ASKED, "tool_required": True}
    whole = llm.chat_with_tools(**given)
    assert whole.raw["finish_reason"] == "tool_calls"
    (arguments,) = arguments_of(llm, whole)
    assert set(arguments) == {"a", "b"}
    assert all(type(value) is int for value in arguments.values())
    *parts, last = llm.stream_chat_with_tools(**given)
    assert len(parts) > 1
    assert arguments_of(llm, last) == [arguments]
    assert len({call.tool_id for part in parts for call in llm.get_tool_calls_from_response(part, False)}) == 1

    async def later() -> list[Any]:
        streamed = [part async for part in await llm.astream_chat_with_tools(**given)]
        return [await llm.achat_with_tools(**given), streamed[-1]]

    assert [arguments_of(llm, response) for response in asyncio.run(later())] == [[arguments], [arguments]]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_function_agent_calls_and_then_answers(llm: HomerLLM, streaming: bool) -> None:
    async def run() -> Any:
        return await FunctionAgent(tools=[TOOL], llm=llm, streaming=streaming).run(ASKED)

    output = asyncio.run(run())
    (call,) = output.tool_calls
    assert call.tool_output.raw_output == call.tool_kwargs["a"] + call.tool_kwargs["b"]
    assert output.response.role == MessageRole.ASSISTANT
    assert str(output)


def test_calls_results_and_thoughts_in_the_history() -> None:
    block = ToolCallBlock(tool_call_id="1", tool_name="add", tool_kwargs={"a": 3, "b": 4})
    messages = [
        ChatMessage(role="user", content=ASKED),
        ChatMessage(role="assistant", blocks=[ThinkingBlock(content="hm"), block]),
        ChatMessage(role="tool", content="7", additional_kwargs={"tool_call_id": "1"}),
    ]
    call = {"function": {"name": "add", "arguments": '{"a": 3, "b": 4}'}}
    expected: list[dict[str, Any]] = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "content": "7"},
    ]
    assert to_conversation(messages).messages == expected
    del expected[1]["reasoning_content"]
    messages[1] = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [call]})
    assert to_conversation(messages).messages == expected
    messages[1] = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [{}]})
    with pytest.raises(InputError, match="message 2 has a tool call"):
        to_conversation(messages)


def test_what_cannot_be_is_refused(llm: HomerLLM) -> None:
    with pytest.raises(GenerationError, match="names none of the tools add"):
        llm.chat_with_tools([TOOL], ASKED, tool_choice="subtract")
    with pytest.raises(GenerationError, match="0 tools"):
        llm.chat_with_tools([], ASKED, tool_required=True)
    with pytest.raises(GenerationError, match="tool_choice='none'"):
        llm.chat_with_tools([TOOL], ASKED, tool_required=True, tool_choice="none")
    with pytest.raises(GenerationError, match="use chat"):
        llm.complete(ASKED, tools=[{}])
    with pytest.raises(GenerationError, match="calls no tool"):
        llm.get_tool_calls_from_response(llm.chat([ChatMessage(content="Hello")], max_tokens=1))
    with pytest.raises(InputError, match="streaming=True and output_cls=Door"):
        HomerSynthesizer(llm, output_cls=Door, streaming=True)
    with pytest.raises(InputError, match="MockLLM"):
        HomerSelector(MockLLM())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="most=0"):
        HomerQuestionGenerator(llm, most=0)


def test_objects_by_every_way(llm: HomerLLM) -> None:
    prompt = PromptTemplate("{text} " + QUESTION)
    found = llm.structured_predict(Door, prompt, text=TEXTS[1])
    assert isinstance(found, Door)
    assert list(llm.stream_structured_predict(Door, prompt, text=TEXTS[1]))[-1] == found

    async def later() -> list[Any]:
        streamed = [part async for part in await llm.astream_structured_predict(Door, prompt, text=TEXTS[1])]
        return [await llm.astructured_predict(Door, prompt, text=TEXTS[1]), streamed[-1]]

    assert asyncio.run(later()) == [found, found]
    assert llm.as_structured_llm(Door).complete(f"{TEXTS[1]} {QUESTION}").raw == found


def test_a_synthesizer_gives_objects(llm: HomerLLM) -> None:
    response = HomerQueryEngine.from_documents(TEXTS, llm, output_cls=Door).query(QUESTION)
    assert isinstance(response, PydanticResponse)
    assert isinstance(response.response, Door)
    assert response.metadata is not None
    assert response.metadata["homer"]["sources"]
    same = HomerQueryEngine.from_documents(TEXTS, llm.as_structured_llm(Door)).query(QUESTION)
    assert same.response == response.response


def tools_of(llm: HomerLLM) -> list[QueryEngineTool]:
    facts = [("garden", "questions about the garden"), ("doors", "questions about doors and their codes")]
    return [
        QueryEngineTool.from_defaults(HomerQueryEngine.from_documents([text], llm), name=name, description=about)
        for text, (name, about) in zip(TEXTS, facts, strict=True)
    ]


def test_a_router_chooses_among_those_there_are(llm: HomerLLM) -> None:
    tools = tools_of(llm)
    router = RouterQueryEngine.from_defaults(tools, llm=llm, selector=HomerSelector(llm))
    assert router.query(QUESTION).metadata["selector_result"].ind in (0, 1)
    choices = [tool.metadata for tool in tools]
    several = asyncio.run(HomerSelector(llm, multiple=True).aselect(choices, QUESTION)).inds
    assert several
    assert len(set(several)) == len(several)
    assert set(several) <= {0, 1}
    with pytest.raises(InputError, match="0 choices"):
        HomerSelector(llm).select([], QUESTION)


def test_sub_questions_name_tools_that_there_are(llm: HomerLLM) -> None:
    questions = HomerQuestionGenerator(llm, most=1)
    engine = SubQuestionQueryEngine.from_defaults(
        tools_of(llm), llm, questions, HomerSynthesizer(llm), verbose=False, use_async=False
    )
    assert str(engine.query(QUESTION))
    metadata = [ToolMetadata("about the garden", "garden")]
    assert [found.tool_name for found in asyncio.run(questions.agenerate(metadata, QueryBundle(QUESTION)))] == [
        "garden"
    ]


def test_a_completion_has_the_text_so_far_and_what_is_new() -> None:
    found = completion("the whole", "whole", {"usage": 1})
    assert (found.text, found.delta, found.raw) == ("the whole", "whole", {"usage": 1})
