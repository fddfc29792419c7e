"""Answers that hold to a schema: what the model is told of it, and what is read from its answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from homer.errors import GenerationError
from homer.text.constraining.calls import Tool, calls_grammar, read_tools
from homer.text.constraining.grammar import Grammar
from homer.text.constraining.quoting import quoting
from homer.text.constraining.schema import parse, schema_of
from homer.text.prompt import DEFAULT_SYSTEM
from homer.text.tools import ToolTexts, in_words, marks_of, shares_a_word, texts_for, usual_words
from homer.view.answer import Answer

_QUOTES = "homer_quotes_arguments"  # in a tokenizer's settings: the model only quotes, as the small one that ships


def told_of_schema(system: str | None, schema: Any) -> str:
    """The system message, and after it the schema: a model that knows what is wanted fills it in better."""
    return f"{DEFAULT_SYSTEM if system is None else system}\n{_instruction(schema)}"


def _instruction(schema: Any) -> str:
    facts = schema_of(schema)
    if facts == {"type": "object"}:
        return "Answer with a JSON object."
    return f"Answer with JSON that holds to this schema: {json.dumps(facts, ensure_ascii=False)}"


def held_to(schema: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a generation whose text holds to a schema.

    Raises:
        GenerationError: a grammar besides, or a schema that cannot be held to.
    """
    if options.get("grammar") is not None:
        raise GenerationError("schema and grammar both say what the answer looks like: leave one of them out")
    return dict(options) | {"grammar": Grammar.json_schema(schema)}


def with_parsed(answer: Answer, schema: Any) -> Answer:
    """The answer with the value that its text says; without, where it was cut.

    Raises:
        GenerationError: what a class refuses beyond its schema, by validators of its own.
    """
    if answer.finish_reason != "stop":
        return answer
    return dataclasses.replace(answer, parsed=parse(answer.text, schema))


@dataclasses.dataclass(frozen=True)
class Turn:
    """A conversation in words alone, and what the next answer must look like.

    Attributes:
        messages: for `build_chat_prompt`.
        grammar: for `stream_prompt`; None: free words.
    """

    messages: list[dict[str, Any]]
    grammar: Grammar | None


def make_turn(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Any = (),
    tool_choice: str | None = None,
    parallel: bool | None = None,
    schema: Any = None,
) -> Turn:
    """See HomerModel.turn."""
    known, choice = read_tools(tools or ()), tool_choice or "auto"
    otherwise = None if schema is None else Grammar.json_schema(schema)
    told = "" if schema is None else _instruction(schema)
    if choice == "none" or (not known and choice == "auto"):
        texts = ToolTexts("", "", usual=usual_words(tokenizer)).with_told(told) if told else None
        return Turn(in_words(messages, texts), otherwise)
    if not known:
        raise GenerationError(f"tool_choice={choice!r} but no tools: give tools, or leave it out")
    texts = texts_for(tokenizer, known)
    last = messages[-1] if messages else {}
    if _QUOTES in getattr(tokenizer, "init_kwargs", {}) and last.get("role") == "user":
        known = tuple(quoting(known, str(last.get("content"))))
    choice, marks = _settled(choice, messages, known, texts.taught), marks_of(tokenizer)
    words = in_words(messages, texts if choice not in ("auto", "words") else texts.with_told(told))
    if choice == "words":
        return Turn(words, otherwise)
    several = texts.taught if parallel is None else parallel
    return Turn(words, calls_grammar(known, choice, several, schema if choice == "auto" else None, marks))


def _settled(choice: str, messages: Sequence[Mapping[str, Any]], tools: tuple[Tool, ...], taught: bool) -> str:
    """The choice; "auto" is "words" or "required" for a model that would never call, or always.

    It was not taught when to call.
    """
    if choice != "auto" or taught:
        return choice
    if shares_a_word(messages, tools):
        return "required"
    calls_grammar(tools, "required")  # refused now if they cannot be held to
    return "words"
