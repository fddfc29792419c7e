"""Structured output of LlamaIndex on a random model: it says what it must, and what was cut is an error."""

import asyncio
from typing import Any, Literal

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

pytest.importorskip("llguidance")

from conftest import tiny_llama

from homer import GenerationError, HomerConfig, HomerModel
from homer_integrations.llama_index import HomerLLM
from tests.tool_tokenizers import tool_tokenizer

TEMPLATE = PromptTemplate("Say {what}")


class Said(BaseModel):
    """What was said."""

    number: int = Field(ge=0, le=99)
    size: Literal["süß"]


class Node(BaseModel):
    """It holds its like."""

    value: Literal[1, 2]
    inner: "Node | None"


@pytest.fixture(scope="module")
def llm() -> HomerLLM:
    settings = HomerConfig(max_chunk_len=512, layers_warmup=2)
    model = HomerModel(tiny_llama(window=4096), tool_tokenizer(), settings, False)
    return HomerLLM(model=model, max_tokens=200, temperature=1.0, seed=0)


async def later(llm: HomerLLM, **options: Any) -> list[Any]:
    return [made async for made in await llm.astream_structured_predict(Said, TEMPLATE, options, what="so")]


def test_objects_come_whole_and_as_they_grow(llm: HomerLLM) -> None:
    made = llm.structured_predict(Said, TEMPLATE, what="so")
    assert isinstance(made, Said)
    streamed = list(llm.stream_structured_predict(Said, TEMPLATE, what="so"))
    assert len(streamed) > 1
    assert streamed[-1] == made == asyncio.run(later(llm))[-1]
    *_, last = llm.as_structured_llm(Said).stream_chat([ChatMessage("so")])
    assert isinstance(last.raw, Said)


def test_what_is_cut_is_an_error_that_says_so(llm: HomerLLM) -> None:
    short = llm.model_copy(update={"max_tokens": 8})
    for call in (
        lambda: short.structured_predict(Said, TEMPLATE, what="so"),
        lambda: list(short.stream_structured_predict(Said, TEMPLATE, what="so")),
        lambda: asyncio.run(later(short)),
        lambda: list(short.as_structured_llm(Said).stream_chat([ChatMessage("so")])),
        lambda: short.as_structured_llm(Said).chat([ChatMessage("so")]),
    ):
        with pytest.raises(GenerationError, match="raise max_tokens"):
            call()


def test_a_class_that_holds_itself_is_a_field_of_another(llm: HomerLLM) -> None:
    with pytest.raises(GenerationError, match="'Node'.*as a field"):
        llm.structured_predict(Node, TEMPLATE, what="so")

    def plant(tree: Node) -> str:
        """Plant a tree."""
        return "planted"

    response = llm.chat_with_tools([FunctionTool.from_defaults(plant)], user_msg="so", tool_required=True)
    (call,) = llm.get_tool_calls_from_response(response)
    Node.model_validate(call.tool_kwargs["tree"])
