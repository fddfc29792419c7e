"""Structured output of LangChain on a random model: it says what it must, and what was cut is no answer."""

import asyncio
from typing import Any, Literal

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel
from typing_extensions import TypedDict

pytest.importorskip("llguidance")

from conftest import tiny_llama

from homer import HomerConfig, HomerModel
from homer_integrations.langchain import ChatHomer
from homer_integrations.langchain.schemas import schema_of, tool_of
from tests.tool_tokenizers import tool_tokenizer

METHODS = ["json_schema", "function_calling"]
UNNAMED = {
    "type": "object",
    "properties": {"größe": {"enum": ["süß"]}, "n": {"type": ["integer", "null"], "minimum": 0, "maximum": 9}},
    "required": ["größe", "n"],
}


class Node(BaseModel):
    """It holds its like."""

    value: Literal[1, 2]
    inner: "Node | None"


class Tree(BaseModel):
    top: Node


class Said(TypedDict):
    """What was said."""

    yes: bool
    size: Literal["süß"]


@tool
def plant(tree: Node) -> str:
    """Plant a tree."""
    return "planted"


def grow(tree: Node) -> str:
    """Grow a tree."""
    return "grown"


@pytest.fixture(scope="module")
def chat() -> ChatHomer:
    settings = HomerConfig(max_chunk_len=512, layers_warmup=2)
    model = HomerModel(tiny_llama(window=4096), tool_tokenizer(), settings, False)
    return ChatHomer(model=model, max_tokens=200, temperature=1.0, seed=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_that_holds_itself_is_held_to_all_the_way_down(chat: ChatHomer, method: str) -> None:
    for kind in (Node, Tree):
        bound = chat.with_structured_output(kind, method=method)
        assert all(isinstance(bound.invoke("Hello", seed=seed), kind) for seed in range(3))


@pytest.mark.parametrize("given", [plant, grow, Tree])
def test_tools_that_take_such_a_class(chat: ChatHomer, given: Any) -> None:
    for seed in range(3):
        bound = chat.bind_tools([given], tool_choice="any", parallel_tool_calls=False, seed=seed)
        (call,) = bound.invoke("Hello").tool_calls
        (inside,) = call["args"].values()
        Node.model_validate(inside)


def test_other_classes_are_converted_as_langchain_does() -> None:
    class Plain(BaseModel):
        """A plain one."""

        said: list[Literal["a"]]

    assert schema_of(Plain) == convert_to_json_schema(Plain)
    assert "$defs" not in tool_of(Plain)["function"]["parameters"]
    assert schema_of(Node)["title"] == "Node"
    assert tool_of({"name": "f", "parameters": UNNAMED})["function"]["name"] == "f"


@pytest.mark.parametrize("method", METHODS)
def test_a_schema_may_have_no_name(chat: ChatHomer, method: str) -> None:
    found = chat.with_structured_output(UNNAMED, method=method).invoke("Hello")
    assert found["größe"] == "süß"


@pytest.mark.parametrize("schema", [Tree, Said, UNNAMED], ids=["class", "TypedDict", "JSON schema"])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_cut_is_an_error_that_says_so(chat: ChatHomer, method: str, schema: Any) -> None:
    cut = chat.with_structured_output(schema, method=method, max_tokens=4)

    async def later() -> list[Any]:
        return [piece async for piece in cut.astream("Hello")]

    for call in (lambda: cut.invoke("Hello"), lambda: list(cut.stream("Hello")), lambda: asyncio.run(later())):
        with pytest.raises(OutputParserException, match="cut after 4 tokens.*raise max_tokens"):
            call()
    raw = chat.with_structured_output(schema, method=method, max_tokens=4, include_raw=True)
    told = raw.invoke("Hello")
    assert told["parsed"] is None
    assert "raise max_tokens" in str(told["parsing_error"])
    assert told["raw"].response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize("method", METHODS)
def test_whole_answers_come_by_all_roads(chat: ChatHomer, method: str) -> None:
    bound = chat.with_structured_output(Said, method=method)
    whole = bound.invoke("Hello")
    assert sorted(whole) == ["size", "yes"]

    async def later() -> list[Any]:
        return [await bound.ainvoke("Hello"), *[piece async for piece in bound.astream("Hello")]]

    streamed = list(bound.stream("Hello"))
    assert streamed[-1] == whole
    again, *pieces = asyncio.run(later())
    assert again == pieces[-1] == whole
    assert bound.batch(["Hello"] * 4) == [whole] * 4
