"""Ten schemas: nested, with choices, optional parts, lists, unions, letters of many kinds, bounds, references."""

from typing import Any

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
