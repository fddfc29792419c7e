"""LangChain's own agents on the model that ships: they call tools, answer by a schema, and read whole documents."""

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

pytest.importorskip("llguidance")
pytest.importorskip("langchain.agents")

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy

from homer_integrations.langchain import ChatHomer
from tests.thinkers import THOUGHT, thinking_model

DOCUMENTS = ["The garden is green.", "The door code for the northern archive is 48213."]
QUESTION = "What is the door code for the northern archive?"
BOOKED: list[int] = []


class Door(BaseModel):
    """A door."""

    code: int = Field(ge=0, le=99999)


@tool
def book_room(people: int) -> str:
    """Book a meeting room."""
    BOOKED.append(people)
    return f"Booked for {people}."


@pytest.fixture(scope="module")
def chat() -> ChatHomer:
    return ChatHomer(max_tokens=96)


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [HumanMessage(text, **more)]}


def test_an_agent_calls_a_tool_and_then_answers(chat: ChatHomer) -> None:
    agent = create_agent(chat, tools=[book_room])
    BOOKED.clear()
    _, call, result, answer = agent.invoke(asked("Book a meeting room for 7 people."))["messages"]
    assert [(made["name"], list(made["args"])) for made in call.tool_calls] == [("book_room", ["people"])]
    assert [made["args"]["people"] for made in call.tool_calls] == BOOKED
    assert isinstance(result, ToolMessage)
    assert result.tool_call_id == call.tool_calls[0]["id"]
    assert isinstance(answer, AIMessage)
    assert not answer.tool_calls


def test_an_agent_with_documents_answers_from_them(chat: ChatHomer) -> None:
    agent = create_agent(chat, tools=[book_room])
    *_, answer = agent.invoke(asked(QUESTION, additional_kwargs={"documents": DOCUMENTS}))["messages"]
    assert answer.text == "48213"
    assert answer.response_metadata["sources"][0]["kept"] > 0


async def test_an_agent_is_streamed(chat: ChatHomer) -> None:
    agent = create_agent(chat, tools=[book_room])
    given = asked("Book a meeting room for 7 people.")
    nodes = [node async for part in agent.astream(given, stream_mode="updates") for node in part]
    assert nodes == ["model", "tools", "model"]
    pieces = [piece async for piece, _ in agent.astream(given, stream_mode="messages")]
    assert sum(bool(getattr(piece, "tool_call_chunks", None)) for piece in pieces) > 1


@pytest.mark.parametrize("form", [Door, ToolStrategy(Door), ProviderStrategy(Door)], ids=["class", "tool", "model's"])
def test_response_format(chat: ChatHomer, form: Any) -> None:
    for tools in ([], [book_room])[
        : 1 if isinstance(form, ToolStrategy) else 2
    ]:  # which may call the other one for ever
        agent = create_agent(chat, tools=tools, response_format=form)
        said = agent.invoke(asked(QUESTION, additional_kwargs={"documents": DOCUMENTS}))
        assert isinstance(said["structured_response"], Door)


def test_an_agent_that_thinks_keeps_its_thoughts() -> None:
    agent = create_agent(ChatHomer(model=thinking_model()), tools=[book_room])
    *_, answer = agent.invoke(asked("Hello?"))["messages"]
    assert answer.content_blocks[0] == {"type": "reasoning", "reasoning": THOUGHT}
    again = asyncio.run(agent.ainvoke({"messages": [HumanMessage("Hello?"), answer, HumanMessage("And now?")]}))
    assert again["messages"][-1].text == answer.text
