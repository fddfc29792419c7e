"""What a text must look like: schemas of every kind, expressions, choices, grammars, and what is refused by name."""

import enum
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr
from typing_extensions import TypedDict

from homer import GenerationError, Grammar
from homer.text.constraining.grammar import as_grammar
from homer.text.constraining.schema import closed, parse, schema_of


class Colour(enum.Enum):
    RED = "rouge"
    BLUE = "blau"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Owner(BaseModel):
    name: str = Field(max_length=8)
    pet: Cat | Dog = Field(discriminator="kind")
    colours: list[Colour] = Field(max_length=2)
    note: str | None = None


class Place(TypedDict):
    city: str
    height: float


def test_a_class_a_typed_dict_and_a_mapping_are_schemas() -> None:
    for given in (Owner, Place, Owner.model_json_schema(), {"type": "object", "properties": {"a": {"type": "null"}}}):
        grammar = Grammar.json_schema(given)
        assert grammar == Grammar.json_schema(given)
        assert hash(grammar) == hash(Grammar.json_schema(given))
        assert grammar.kind == "json_schema"
        assert not grammar.free
    assert Grammar.json_object() != Grammar.json_schema(Place)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "json-pointer"}, "json-pointer"),
        ({"type": "string", "pattern": "^(?!a)"}, "look-ahead"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "greater than maximum"),
        ({"if": {}, "then": {}}, "if"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "say anyOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}], "x-guidance": {"coerce_one_of": True}}, "oneOf"),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
        ({"const": float("nan")}, "JSON"),
        (set[int], "uniqueItems"),
        ("a text", "no schema"),
        (type("Own", (), {}), "no JSON schema"),
    ],
)
def test_what_cannot_be_held_to_is_refused_by_name(schema: Any, named: str) -> None:
    with pytest.raises(GenerationError, match=named):
        Grammar.json_schema(schema)


def test_expressions_choices_and_grammars_are_checked_when_they_are_made() -> None:
    assert Grammar.regex(r"\d{4}").kind == "regex"
    assert Grammar.choice(["ja", "nein", 'so "lala"']).kind == "choice"
    assert Grammar.lark('start: "a" | "b" start').kind == "lark"
    assert Grammar.ebnf('root ::= [a-z]+ "!"').kind == "ebnf"
    for make, bad in (
        (Grammar.regex, "a("),
        (Grammar.regex, ""),
        (Grammar.regex, 3),
        (Grammar.choice, []),
        (Grammar.choice, ["a", ""]),
        (Grammar.choice, ["a", 2]),
        (Grammar.lark, "start: nothing_named_so"),
        (Grammar.ebnf, "no rule at all"),
    ):
        with pytest.raises(GenerationError):
            make(bad)


def test_only_a_grammar_is_one() -> None:
    assert as_grammar(Grammar.json_object()) == Grammar.json_object()
    with pytest.raises(GenerationError, match="json_schema"):
        as_grammar({"type": "object"})
    with pytest.raises(GenerationError, match="Grammar"):
        as_grammar("a*")


def test_objects_take_what_they_name_unless_they_say_otherwise() -> None:
    named = {"properties": {"a": {"properties": {"b": {}}}, "additionalProperties": {"type": "string"}}}
    made = closed(named)
    assert made["additionalProperties"] is False
    assert made["properties"]["a"]["additionalProperties"] is False
    assert made["properties"]["additionalProperties"] == {"type": "string"}  # the property of that name
    for left in (
        {"properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
        {"properties": {"a": {}}, "patternProperties": {"b": {}}},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"type": "object"},
        {"enum": [{"properties": {"a": 1}}]},
    ):
        assert closed(left) == left


def test_a_format_that_json_schema_does_not_define_is_a_note() -> None:
    class Login(BaseModel):
        secret: SecretStr
        file: Path
        picture: bytes

    assert Grammar.json_schema(Login).kind == "json_schema"
    schema = {"type": "object", "properties": {"format": {"type": "integer", "format": "int64"}}}
    assert closed(schema)["properties"] == {"format": {"type": "integer"}}  # a property may have that name
    dated = {"type": "string", "format": "date"}
    assert closed({"anyOf": [dated, {"enum": [{"format": "x"}]}]})["anyOf"] == [dated, {"enum": [{"format": "x"}]}]


def test_what_a_text_says() -> None:
    text = json.dumps({"city": "Köln", "height": 53.0}, ensure_ascii=False)
    assert parse(text, Place) == {"city": "Köln", "height": 53.0}
    assert parse(text, schema_of(Place)) == {"city": "Köln", "height": 53.0}
    assert parse('{"kind": "cat", "lives": 9}', Cat) == Cat(kind="cat", lives=9)
    with pytest.raises(GenerationError, match="refused"):
        parse('{"kind": "cat", "lives": 10}', Cat)
