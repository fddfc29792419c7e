"""Tools by a chat template of the model's own, from LangChain and over HTTP: called, answered, and in the history."""

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

pytest.importorskip("llguidance")

from conftest import tiny_llama

from homer import HomerConfig, HomerModel
from homer_integrations.langchain import ChatHomer
from homer_integrations.serve import ServeSettings
from tests.serving import client_of, running
from tests.tool_tokenizers import tool_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}
ADD = {"type": "function", "function": {"name": "add", "description": "Sum two numbers.", "parameters": SCHEMA}}
ASKED = "Add 3 and 4"


@pytest.fixture(scope="module")
def model() -> HomerModel:
    return HomerModel(tiny_llama(window=4096), tool_tokenizer(), HomerConfig(max_chunk_len=512, layers_warmup=2), False)


@pytest.fixture
def prompts(model: HomerModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of all prompts that are built."""
    seen: list[str] = []
    build = HomerModel.build_chat_prompt

    def noting(given: HomerModel, *arguments: Any, **options: Any) -> Any:
        prompt = build(given, *arguments, **options)
        ids = [*prompt.prefix_ids.tolist(), *prompt.context_ids.tolist(), *prompt.suffix_ids.tolist()]
        seen.append(given.tokenizer.decode(ids))
        return prompt

    monkeypatch.setattr(HomerModel, "build_chat_prompt", noting)
    return seen


def template_text(model: HomerModel, messages: list[dict[str, Any]]) -> str:
    text: str = model.tokenizer.apply_chat_template(messages, tools=[ADD], tokenize=False, add_generation_prompt=True)
    return text


def history(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    called = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    return [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "7", "tool_call_id": "x"},
    ]


def test_langchain_calls_and_goes_on(model: HomerModel, prompts: list[str]) -> None:
    chat = ChatHomer(model=model, max_tokens=80)
    bound = chat.bind_tools([ADD], tool_choice="add", parallel_tool_calls=False)
    message = bound.invoke(ASKED)
    (call,) = message.tool_calls
    assert call["name"] == "add"
    assert 0 <= call["args"]["a"] <= 99
    streamed = None
    for chunk in bound.stream(ASKED):
        streamed = chunk if streamed is None else streamed + chunk
    assert [found["args"] for found in streamed.tool_calls] == [call["args"]]
    assert prompts[0] == prompts[1] == template_text(model, history({})[:1])
    asked = [HumanMessage(ASKED), message, ToolMessage("7", tool_call_id=call["id"])]
    answered = chat.bind_tools([ADD]).invoke(asked, max_tokens=4)
    assert isinstance(answered, AIMessage)
    assert prompts[2] == template_text(model, history(call["args"]))


def test_the_server_calls_and_goes_on(model: HomerModel, prompts: list[str]) -> None:
    with running(ServeSettings(model=model, served_name="tools", max_tokens=80, timeout=300)) as server:
        client = client_of(server.url)
        messages: list[Any] = [{"role": "user", "content": ASKED}]
        given: dict[str, Any] = {"model": "tools", "tools": [ADD], "parallel_tool_calls": False}
        first = client.chat.completions.create(messages=messages, tool_choice="required", **given).choices[0]
        (call,) = first.message.tool_calls
        arguments = json.loads(call.function.arguments)
        assert first.finish_reason == "tool_calls"
        assert 0 <= arguments["a"] <= 99
        messages += [first.message.model_dump(exclude_none=True), history({})[2] | {"tool_call_id": call.id}]
        client.chat.completions.create(messages=messages, max_tokens=4, **given)
    # before them the server has looked whether this template takes thoughts
    assert prompts[-2:] == [template_text(model, history({})[:1]), template_text(model, history(arguments))]
