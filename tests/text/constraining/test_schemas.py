"""Ten schemas, and a random model that knows nothing of JSON: what ends by itself is valid."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from small import save_small

pytest.importorskip("llguidance")

from homer import Grammar, HomerConfig, HomerModel

WORD = {"type": "string", "maxLength": 8}


def record(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": record(name=WORD, age=({"type": "integer", "minimum": 0, "maximum": 130})),
    "nested": record(outer=record(inner=record(value={"type": "boolean"}), note=WORD)),
    "enum": record(colour={"enum": ["red", "green", "blue", 7, None]}),
    "optional": {
        "type": "object", "properties": {"a": WORD, "b": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["a"], "additionalProperties": False,
    },
    "array": record(rows={"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 5}, "maxItems": 4}),
    "array of objects": record(rows={"type": "array", "items": record(k=WORD), "minItems": 1, "maxItems": 2}),
    "union": record(value={"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, WORD, {"type": "null"}]}),
    "unicode": record(**{"größe": {"enum": ["klein", "groß", "大きい", "🙂"]}, "名前": WORD}),
    "numbers": record(share={"type": "number", "minimum": 0, "maximum": 1}, count={"type": "integer", "minimum": 10,
                      "maximum": 12}),
    "reference": {"$defs": {"point": record(x={"type": "integer", "minimum": 0, "maximum": 99})}}
    | record(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> HomerModel:
    folder = save_small(tmp_path_factory.mktemp("random"), window=1024)
    return HomerModel.from_pretrained(folder, config=HomerConfig(max_chunk_len=256), calibration=False)


def check(model: HomerModel, name: str, samples: int, *, whole_as_well: bool = False) -> None:
    schema = SCHEMAS[name]
    grammar = Grammar.json_schema(schema)
    cache = model.compress_prompt(model.build_prompt("Which?", ["Nothing is said here."]))
    for seed in range(samples):
        stream = model.stream(cache, 256, grammar=grammar, temperature=1.5, seed=seed)
        text = "".join(stream)
        assert stream.result().finish_reason == "stop", text
        jsonschema.validate(json.loads(text), schema)
        if whole_as_well:
            assert model.generate(cache, 256, grammar=grammar, temperature=1.5, seed=seed).text == text


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_ends_by_itself_is_valid(random_model: HomerModel, name: str) -> None:
    check(random_model, name, 2, whole_as_well=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_hundred_of_a_hundred(random_model: HomerModel, name: str) -> None:
    check(random_model, name, 100)


@pytest.mark.real
@pytest.mark.long
def test_a_real_model_fills_in_every_schema() -> None:
    folder = Path(__file__).parents[3] / ".real"
    model = HomerModel.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf", calibration=False)
    for name in SCHEMAS:
        check(model, name, 1)
