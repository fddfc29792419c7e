"""Answers by a schema: the model is told of it, the text holds to it, and what is cut is not called whole."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, field_validator

from homer import Answer, GenerationError, Grammar, HomerModel
from homer.model.structured import told_of_schema, with_parsed
from homer.view.sources import Usage

DOCUMENTS = ["The dewar holds 35 litres. It stands in room 4.", "The board met on 3 May."]


class Dewar(BaseModel):
    litres: int = Field(ge=1, le=99)
    state: Literal["full", "empty"]


def test_an_answer_by_a_class_or_by_a_mapping(mini: HomerModel) -> None:
    answer = mini.ask("How many litres does the dewar hold?", DOCUMENTS, schema=Dewar)
    assert answer.finish_reason == "stop"
    assert answer.parsed == Dewar.model_validate_json(answer.text)
    again = mini.ask("How many litres does the dewar hold?", DOCUMENTS, schema=Dewar.model_json_schema())
    assert again.parsed == answer.parsed.model_dump()
    assert Answer.from_dict(answer.to_dict()) == answer
    assert "parsed" not in answer.to_dict()


def test_documents_that_were_encoded_answer_by_a_schema(mini: HomerModel) -> None:
    encoded = mini.encode(DOCUMENTS)
    answer = mini.ask("How many litres does the dewar hold?", encoded, schema=Dewar)
    assert answer.parsed == Dewar.model_validate_json(answer.text)


def test_what_is_cut_has_nothing_parsed(mini: HomerModel) -> None:
    answer = mini.ask("How many litres?", DOCUMENTS, schema=Dewar, max_new_tokens=3)
    assert (answer.finish_reason, answer.parsed) == ("length", None)


def test_what_cannot_be_is_refused_before_any_work(mini: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(mini), "compress", lambda *_, **__: pytest.fail("work began"))
    options: dict[str, Any]
    for options, named in (
        ({"schema": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"schema": Dewar, "grammar": Grammar.json_object()}, "both"),
        ({"schema": Dewar, "num_beams": 3}, "num_beams"),
        ({"schema": Dewar, "stop": "}"}, "stop"),
    ):
        with pytest.raises(GenerationError, match=named):
            mini.ask("Who?", DOCUMENTS, **options)


def test_the_model_is_told_of_the_schema() -> None:
    assert told_of_schema("Be kind.", Dewar).startswith("Be kind.\n")
    assert '"litres"' in told_of_schema(None, Dewar)


def test_what_the_class_itself_refuses_is_an_error() -> None:
    class Odd(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def odd(cls, number: int) -> int:
            if number % 2 == 0:
                raise ValueError("even")
            return number

    whole = Answer('{"number": 2}', (), Usage(1, 1, 1), "stop")
    with pytest.raises(GenerationError, match="even"):
        with_parsed(whole, Odd)
    assert with_parsed(Answer('{"number": 3}', (), Usage(1, 1, 1), "stop"), Odd).parsed == Odd(number=3)
    assert with_parsed(Answer('{"numb', (), Usage(1, 1, 1), "length"), Odd).parsed is None


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_every_way_tells_of_the_schema_alike(mini: HomerModel, system: str | None) -> None:
    asked = [{"role": "user", "content": "How many litres?"}]
    messages = asked if system is None else [{"role": "system", "content": system}, *asked]
    told = told_of_schema(system, Dewar).splitlines()[-1]
    turn = mini.turn(messages, schema=Dewar)
    assert turn.messages[0] == {"role": "system", "content": "\n".join(filter(None, [system, told]))}
    assert turn.messages[1:] == asked
    assert turn.grammar == Grammar.json_schema(Dewar)
    for tool_choice in (None, "none"):
        turn = mini.turn(messages, schema={"type": "object"}, tools=TOOLS, tool_choice=tool_choice)
        assert "Answer with a JSON object." in turn.messages[0]["content"].splitlines()
    assert mini.turn(messages).messages == messages


TOOLS = [{"type": "function", "function": {"name": "subtract", "description": "Take away."}}]


def test_a_long_schema_is_told_in_part_and_held_to_as_a_whole(mini: HomerModel) -> None:
    names = [f"property_number_{number}" for number in range(80)]
    schema = {"type": "object", "properties": {name: {"enum": [0, 1]} for name in names}, "required": names[:1]}
    turn = mini.turn([{"role": "user", "content": "Which?"}], schema=schema)
    prompt = mini.build_chat_prompt(turn.messages, max_new_tokens=100)
    answer = mini.stream_prompt(prompt, grammar=turn.grammar, max_new_tokens=100).answer()
    assert len(prompt) > mini.chunk_len
    assert answer.text.startswith('{"property_number_0": ')
