"""Tools and schemas over HTTP, by unmodified clients."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

pytest.importorskip("llguidance")

from homer import HomerModel
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.server import Server
from tests.serving import DOCUMENTS_OF_FACT, QUESTION, client_of, create, running

ASKED = "Add the numbers 3 and 4"
ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
TOOLS = [{"type": "function", "function": ADD}]
DOOR = {
    "type": "object",
    "properties": {"code": {"type": "integer", "minimum": 0, "maximum": 99999}, "wing": {"enum": ["north", "süd"]}},
    "required": ["code", "wing"],
    "additionalProperties": False,
}


class Door(BaseModel):
    code: int
    open: bool


@pytest.fixture(scope="module")
def server(mini: HomerModel) -> Iterator[Server]:
    with running(ServeSettings(model=mini, served_name="mini", max_tokens=64, timeout=300)) as started:
        yield started


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return client_of(server.url)


def numbers(arguments: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(arguments)
    assert sorted(found) == ["a", "b"]
    assert all(type(value) is int for value in found.values())
    return found


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "add"}}])
def test_a_tool_is_called_with_valid_arguments(client: openai.OpenAI, choice: Any) -> None:
    (answered,) = create(client, ASKED, tools=TOOLS, tool_choice=choice).choices
    assert answered.finish_reason == "tool_calls"
    (call,) = answered.message.tool_calls
    assert call.function.name == "add"
    assert call.id
    numbers(call.function.arguments)


def test_no_tool_is_called_where_none_may_be(client: openai.OpenAI) -> None:
    (answered,) = create(client, ASKED, tools=TOOLS, tool_choice="none").choices
    assert not answered.message.tool_calls
    assert answered.message.content


def test_calls_are_streamed(client: openai.OpenAI) -> None:
    whole = create(client, ASKED, tools=TOOLS, tool_choice="required").choices[0].message.tool_calls[0].function
    chunks = list(create(client, ASKED, tools=TOOLS, tool_choice="required", stream=True))
    parts = [part for chunk in chunks for choice in chunk.choices for part in choice.delta.tool_calls or ()]
    assert len(parts) > 1
    assert {part.index for part in parts} == {0}
    assert [part.function.name for part in parts if part.function.name] == ["add"]
    assert "".join(part.function.arguments or "" for part in parts) == whole.arguments
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["tool_calls"]


def test_a_tools_result_goes_back_in(client: openai.OpenAI) -> None:
    call = create(client, ASKED, tools=TOOLS, tool_choice="required").choices[0].message
    history: list[Any] = [
        {"role": "user", "content": ASKED},
        call.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "7"},
    ]
    answered = client.chat.completions.create(model="mini", messages=history, tools=TOOLS)
    assert answered.usage.prompt_tokens > 30
    assert answered.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_a_schema_is_held_to_with_documents(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "door", "schema": DOOR, "strict": True}}
    extra = {"documents": DOCUMENTS_OF_FACT}
    answered = create(client, QUESTION, response_format=form, extra_body=extra)
    found = json.loads(answered.choices[0].message.content)
    assert type(found["code"]) is int
    assert found["wing"] in ("north", "süd")
    chunks = create(client, QUESTION, response_format=form, extra_body=extra, stream=True)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert json.loads(text) == found


def test_any_object(client: openai.OpenAI) -> None:
    answered = create(client, "Give me JSON", response_format={"type": "json_object"}, max_tokens=40).choices[0]
    assert answered.finish_reason in ("stop", "length")
    assert answered.finish_reason == "length" or isinstance(json.loads(answered.message.content), dict)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": [{"type": "function"}]}, "name"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "subtract"}}}, "subtract"),
        ({"tool_choice": "required"}, "no tools"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"uniqueItems": True}}}},
         "uniqueItems"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_to_is_refused(client: openai.OpenAI, options: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        create(client, extra_body=options)


def test_langchain_by_openai(server: Server) -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    chat = ChatOpenAI(base_url=server.url, api_key="any", model="mini", max_retries=0)
    (call,) = chat.bind_tools([add], tool_choice="any").invoke(ASKED).tool_calls
    assert call["name"] == "add"
    assert isinstance(add.invoke(call["args"]), int)
    assert isinstance(chat.with_structured_output(Door, method="json_schema").invoke("Is door 5 open?"), Door)


def test_llama_index_by_openai(server: Server) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    llm = OpenAILike(
        api_base=server.url, api_key="any", model="mini", is_chat_model=True, is_function_calling_model=True
    )
    response = llm.chat_with_tools([FunctionTool.from_defaults(add)], user_msg=ASKED, tool_required=True)
    (call,) = llm.get_tool_calls_from_response(response)
    assert call.tool_name == "add"
    assert isinstance(add(**call.tool_kwargs), int)
    assert llm.chat([ChatMessage(content="Hello")]).message.content
