"""Calls of tools: what is one, what is read back, whole or letter by letter, and arguments as quotations."""

import json
from typing import Any

import pytest

from homer import Call, CallPiece, CallReader, GenerationError, HomerModel, read_calls
from homer.text.constraining.calls import calls_grammar, read_tools
from homer.text.constraining.quoting import quoting
from homer.text.tools import in_words, shares_a_word
from homer_integrations.langchain.tools import words_and_calls
from homer_integrations.shared.tools import Wanted, read_choice, read_form, take_wanted

ADD = {"name": "add", "description": "Sum numbers.", "parameters": {"properties": {"a": {"type": "integer"}}}}
TEXT = 'Well.<tool_call>{"name": "add", "arguments": {"a": "}\\""}}</tool_call>'


def test_calls_are_read_whole_or_letter_by_letter() -> None:
    words, calls = read_calls(TEXT)
    assert (words, [call.name for call in calls]) == ("Well.", ["add"])
    reader = CallReader()
    pieces = [piece for letter in TEXT for piece in reader.feed(letter)]
    assert reader.calls == calls
    parts = [piece for piece in pieces if isinstance(piece, CallPiece)]
    assert "".join(part.arguments for part in parts) == calls[0].arguments
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == "Well."
    assert read_calls("a <tool") == ("a <tool", [])
    assert words_and_calls(TEXT)[1][0]["args"] == json.loads(calls[0].arguments)


@pytest.mark.parametrize("tool", [3, {"type": "web_search"}, {"name": "two words"}, {"name": "a", "parameters": 3}])
def test_what_is_no_tool_is_refused(tool: Any) -> None:
    with pytest.raises(GenerationError):
        read_tools([tool])


def test_choices_and_formats() -> None:
    assert [read_choice(given) for given in (None, "any", True, "add")] == ["auto", "required", "required", "add"]
    assert read_choice({"type": "function", "function": {"name": "add"}}) == "add"
    assert read_form({"type": "json_object"}) == {"type": "object"}
    with pytest.raises(GenerationError, match="response_format"):
        read_form({"type": "yaml"})
    assert take_wanted({}) == Wanted()
    with pytest.raises(GenerationError, match="none of"):
        calls_grammar(read_tools([ADD]), "subtract")


def test_arguments_are_quoted_from_the_message() -> None:
    (tool,) = quoting(read_tools([ADD]), "Add 3 and 14, please")
    assert json.loads(tool.parameters)["properties"]["a"] == {"enum": [3, 14]}


def test_a_history_of_calls_is_written_out() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    words = in_words(
        [{"role": "user", "content": "Add"}, called, {"role": "tool", "content": "7", "tool_call_id": "x"}]
    )
    assert [message["role"] for message in words] == ["user", "assistant", "user"]
    assert "7" in words[2]["content"]
    assert shares_a_word([{"role": "user", "content": "some numbers"}], read_tools([ADD]))
    assert not shares_a_word([{"role": "user", "content": "Hello"}], read_tools([ADD]))


def test_the_small_model_calls_with_valid_arguments(mini: HomerModel) -> None:
    turn = mini.turn([{"role": "user", "content": "Add 3, numbers"}], tools=[ADD], tool_choice="required")
    answer = mini.stream_prompt(mini.build_chat_prompt(turn.messages), grammar=turn.grammar).answer()
    assert read_calls(answer.text) in (("", [Call("add", '{"a": 3}')]), ("", [Call("add", "{}")]))
