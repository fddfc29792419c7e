"""Grammar: what a text must look like; checked when it is made, and the same for every tokenizer."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import Any

from homer.base.arguments import check_list, check_text, shown
from homer.errors import GenerationError
from homer.text.constraining.schema import closed, schema_of

# Python's own way to write JSON, which models have read most of; no white space elsewhere, which could go on for ever.
# The two switches would make of a schema what it does not say.
WRITTEN = {
    "item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False, "whitespace_pattern": None,
    "lenient": False, "coerce_one_of": False,
}  # fmt: skip
_ONE_OF = "oneOf, of which several parts may hold at once: say anyOf"  # the library names a switch that is none here


@dataclasses.dataclass(frozen=True)
class Grammar:
    """What a generated text must look like, from its first character to its last.

    Make one by `json_schema`, `json_object`, `regex`, `choice`, `lark` or `ebnf`. It is immutable, and costs little:
    a model compiles it when it first meets it, and keeps what it compiled.

    Attributes:
        kind: by which of them it was made.
        source: what llguidance reads.
        free: whether text without a form may come too, which stop strings may end.
        sealed: what such text ends with: from there on no stop string counts.
        marks: tokens of the model that stand in the text by their names, even if the tokenizer calls them special.
    """

    kind: str
    source: str = dataclasses.field(repr=False)
    free: bool = False
    sealed: str = ""
    marks: tuple[str, ...] = ()

    @classmethod
    def json_schema(cls, schema: Any) -> Grammar:
        """JSON that holds to a schema, written as Python's `json.dumps` writes it.

        Objects take no other properties than those named, unless the schema says what they may be
        (`additionalProperties`). Properties come in the schema's order. A `format` that JSON Schema does not define
        says nothing of the text.

        Args:
            schema: a pydantic class, a TypedDict, a dataclass or another type that pydantic knows, or a JSON schema.

        Raises:
            GenerationError: no schema, or one with a keyword that cannot be held to; names it.
        """
        facts = closed(schema_of(schema))
        try:
            source = json.dumps(facts, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise GenerationError(f"the schema is no JSON ({error}): give plain JSON values") from None
        return cls(
            "json_schema", checked("the schema", library().LLMatcher.grammar_from_json_schema, source, None, WRITTEN)
        )

    @classmethod
    def json_object(cls) -> Grammar:
        """Any JSON object."""
        return cls.json_schema({"type": "object", "additionalProperties": True})

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Text that a regular expression matches as a whole, in the syntax of Rust's `regex`: no look-around.

        Raises:
            GenerationError: no expression of that syntax.
        """
        return cls("regex", checked("the expression", library().LLMatcher.grammar_from_regex, _text("regex", pattern)))

    @classmethod
    def choice(cls, options: Any) -> Grammar:
        """One of several texts.

        Raises:
            GenerationError: none to choose from, or one that is empty.
        """
        texts = [_text("a choice", option) for option in check_list("choice", options, "texts")]
        if not texts or "" in texts:
            raise GenerationError(f"choice={shown(texts)}: give at least one text, and none that is empty")
        lark = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return cls("choice", checked("the choice", library().LLMatcher.grammar_from_lark, lark))

    @classmethod
    def lark(cls, grammar: str) -> Grammar:
        """Text of a context-free grammar in Lark's syntax, which begins with `start`.

        Raises:
            GenerationError: no such grammar; says where it is not.
        """
        return cls("lark", checked("the grammar", library().LLMatcher.grammar_from_lark, _text("grammar", grammar)))

    @classmethod
    def ebnf(cls, grammar: str) -> Grammar:
        """Text of a context-free grammar in llama.cpp's notation (GBNF), which begins with `root`.

        Raises:
            GenerationError: no such grammar.
        """
        try:
            lark = library("llguidance.gbnf_to_lark").any_to_lark(_text("grammar", grammar))
        except GenerationError:
            raise
        except Exception as error:  # its reader raises whatever it stumbles over
            raise GenerationError(f"the grammar cannot be read ({error}): give it in llama.cpp's notation") from None
        return cls("ebnf", checked("the grammar", library().LLMatcher.grammar_from_lark, lark))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise GenerationError(f"{name}={shown(value)} is no text: give a string that is not empty")
    return check_text(name, value)


def checked(name: str, make: Any, *arguments: Any) -> str:
    """The grammar that llguidance makes of it. Raises GenerationError with its reason where it makes none."""
    try:
        source: str = make(*arguments)
        wrong, messages = library().LLMatcher.validate_grammar_with_warnings(source)
    except ValueError as error:
        wrong, messages = True, [str(error)]
    if wrong:
        messages = [_ONE_OF if "coerce_one_of" in message else message for message in messages]
        raise GenerationError(f"{name} cannot be held to ({'; '.join(messages)}): leave that out, or say it otherwise")
    return source


def library(name: str = "llguidance") -> Any:
    """The library that knows grammars. Raises GenerationError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise GenerationError(
            "a grammar or a schema needs the package llguidance: pip install homer-integrations[structured]"
        ) from None


def as_grammar(value: Any) -> Grammar:
    """A Grammar as it is. Raises GenerationError on something else."""
    if isinstance(value, Grammar):
        return value
    hint = "Grammar.json_schema(...)" if isinstance(value, Mapping | type) else "one of Grammar's own makers"
    raise GenerationError(f"grammar={shown(value)} is a {type(value).__name__}: give {hint}")
