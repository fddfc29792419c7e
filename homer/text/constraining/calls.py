"""Calls of tools: what they look like in a model's text, the grammar that keeps to it, and what is read back.

A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as the models of several families were taught.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from homer.base.arguments import check_list, shown
from homer.errors import GenerationError
from homer.text.constraining.grammar import WRITTEN, Grammar, checked, library
from homer.text.constraining.schema import closed, schema_of

BEGIN, END = "<tool_call>", "</tool_call>"
CHOICES = ("auto", "none", "required")
_NAME = re.compile(r"[\w.-]{1,128}")
_HEAD = re.compile(r'\s*\{"name": ("[^"]*"), "arguments": ')
_NOTHING = {"type": "object", "properties": {}}
_WORDS_TO_MARK = f"first[lazy]: WORDS {json.dumps(BEGIN)}\nWORDS: /(?s:.*)/"
_WORDS = f"WORDS: /(?s:.*)/ & ~/(?s:.*{BEGIN}.*)/"  # whose letters call nothing, where the mark is a token


@dataclasses.dataclass(frozen=True)
class Tool:
    """What a model may call.

    Attributes:
        parameters: the JSON schema of its arguments, an object, as JSON text.
    """

    name: str
    description: str
    parameters: str

    def to_dict(self) -> dict[str, Any]:
        """The tool as OpenAI writes it, and chat templates read it."""
        facts = {"name": self.name, "description": self.description, "parameters": json.loads(self.parameters)}
        return {"type": "function", "function": facts}


def read_tools(given: Any) -> tuple[Tool, ...]:
    """Tools as OpenAI's endpoints take them, in their order.

    Raises:
        GenerationError: something else; says what is missing.
    """
    tools = tuple(_read_tool(tool) for tool in check_list("tools", given, "tools"))
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise GenerationError(f"two tools are called {twice!r}: give each a name of its own")
    return tools


def calls_grammar(
    tools: Sequence[Tool],
    choice: str = "auto",
    parallel: bool = True,
    schema: Any = None,
    tokens: Collection[str] = (),
) -> Grammar:
    """The grammar of texts that may call these tools, with arguments that hold to the tools' schemas.

    Args:
        choice: "auto": any text, which may end with calls; "required": calls and nothing else; else the name of the
            tool that is to be called.
        parallel: whether several calls may come.
        schema: where no call comes, the text is JSON that holds to it.
        tokens: what of BEGIN and END is a token of its own, as models have it that were taught to call: no letters
            make it up, so that a call that a document spells out, and the model repeats, is none.

    Raises:
        GenerationError: a choice that is none, or a schema that cannot be held to.
    """
    chosen = tools if choice in CHOICES else [tool for tool in tools if tool.name == choice]
    if not chosen or choice == "none":
        names = ", ".join((*CHOICES, *(tool.name for tool in tools)))
        raise GenerationError(f"tool_choice={shown(choice)} is none of {names}: give one of them, and tools")
    begin, end = (mark if mark in tokens else json.dumps(mark) for mark in (BEGIN, END))
    more = f"(/\\n?/ {begin} call)*" if parallel else ""
    if choice == "auto" and schema is None:  # the words end as soon as a call begins; until then they are free
        first = "tail " + begin if BEGIN in tokens else "first"
        rules = [f"start: tail | {first} call {more}", "tail: WORDS"]
        rules += [_WORDS if BEGIN in tokens else _WORDS_TO_MARK]
    elif choice == "auto":
        facts = closed(schema_of(schema)) | {"x-guidance": WRITTEN}
        rules = [f"start: words | {begin} call {more}", f"words: %json {json.dumps(facts, ensure_ascii=False)}"]
    else:
        rules = [f"start: {begin} call {more}"]
    rules.append(f"call: /\\n?/ ({' | '.join(f'call_{n}' for n in range(len(chosen)))}) /\\n?/ {end}")
    for number, tool in enumerate(chosen):
        head = json.dumps(f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": ', ensure_ascii=False)
        facts = closed(json.loads(tool.parameters)) | {"x-guidance": WRITTEN}
        rules.append(f'call_{number}: {head} arguments_{number} "}}"')
        rules.append(f"arguments_{number}: %json {json.dumps(facts, ensure_ascii=False)}")
    lark = "%llguidance {}\n" + "\n".join(rules)
    source = checked("the tools' parameters", library().LLMatcher.grammar_from_lark, lark)
    return Grammar("calls", source, schema is None, BEGIN, tuple(sorted(tokens)))


@dataclasses.dataclass(frozen=True)
class Call:
    """A call that a model made; arguments are JSON text."""

    name: str
    arguments: str

    def written(self) -> str:
        """The call between its marks, as it stands in a text."""
        return f'{{"name": {json.dumps(self.name, ensure_ascii=False)}, "arguments": {self.arguments}}}'


@dataclasses.dataclass(frozen=True)
class CallPiece:
    """A part of a call as it comes: the name first, then its arguments bit by bit.

    Attributes:
        index: which call of the answer.
        name: in the first piece alone.
        arguments: JSON text that goes on where the last piece ended.
        last: whether the call is whole with it.
    """

    index: int
    name: str | None = None
    arguments: str = ""
    last: bool = False


class CallReader:
    """Reads words and calls out of a text as it comes.

    Attributes:
        calls: those that are whole.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._held = ""
        self._state = "words"
        self._name, self._arguments = "", ""
        self._depth, self._quoted, self._escaped = 0, False, False
        self._read = {"words": self._words, "head": self._head, "arguments": self._value, "end": self._end}

    def feed(self, text: str) -> Iterator[str | CallPiece]:
        """What is certain once this text has come."""
        self._held += text
        going = True
        while going:
            state, held = self._state, self._held
            yield from self._read[state]()
            going = bool(self._held) and (state, held) != (self._state, self._held)

    def flush(self) -> Iterator[str]:
        """Words that were held back, since they might have begun a call."""
        if self._state == "words" and self._held:
            yield self._held
        self._held = ""

    def _words(self) -> Iterator[str | CallPiece]:
        words, mark, rest = self._held.partition(BEGIN)
        if mark:
            self._state, self._held = "head", rest
        else:
            longest = min(len(words), len(BEGIN) - 1)
            held = next((n for n in range(longest, 0, -1) if BEGIN.startswith(words[-n:])), 0)
            words, self._held = words[: len(words) - held], words[len(words) - held :]
        words = words.lstrip() if self.calls else words  # what parts one call from the next
        if words:
            yield words

    def _head(self) -> Iterator[CallPiece]:
        found = _HEAD.match(self._held)
        if found:
            self._name, self._arguments, self._state = json.loads(found[1]), "", "arguments"
            self._depth, self._quoted, self._escaped = 0, False, False
            self._held = self._held[found.end() :]
            yield CallPiece(len(self.calls), self._name)

    def _value(self) -> Iterator[CallPiece]:
        whole = next((count for count, letter in enumerate(self._held, 1) if self._closes(letter)), None)
        part, self._held = self._held[:whole], "" if whole is None else self._held[whole:]
        self._arguments += part
        if whole is not None:
            self._state = "end"
            self.calls.append(Call(self._name, self._arguments))
        yield CallPiece(len(self.calls) - (whole is not None), None, part, whole is not None)

    def _closes(self, letter: str) -> bool:
        """Whether the arguments end with this letter."""
        if self._quoted:
            self._quoted = self._escaped or letter != '"'
            self._escaped = letter == "\\" and not self._escaped
            return False
        self._quoted = letter == '"'
        self._depth += (letter in "{[") - (letter in "}]")
        return self._depth == 0 and letter in "}]"

    def _end(self) -> Iterator[CallPiece]:
        _, mark, rest = self._held.partition(END)
        if mark:
            self._state, self._held = "words", rest
        yield from ()


def read_calls(text: str) -> tuple[str, list[Call]]:
    """The words of a whole text, and the calls in it."""
    reader = CallReader()
    pieces = [*reader.feed(text), *reader.flush()]
    return "".join(piece for piece in pieces if isinstance(piece, str)).strip(), reader.calls


def _read_tool(tool: Any) -> Tool:
    if not isinstance(tool, Mapping):
        raise GenerationError(f"a tool is a {type(tool).__name__}: give a mapping with 'type' and 'function'")
    facts = tool.get("function", tool)
    kind = tool.get("type", "function")
    if kind != "function" or not isinstance(facts, Mapping):
        raise GenerationError(f"a tool is of type {shown(kind)}: only functions can be called")
    name, schema = facts.get("name"), facts.get("parameters") or _NOTHING
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise GenerationError(f"a tool's name is {shown(name)}: give 1 to 128 letters, digits, '_', '-' or '.'")
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise GenerationError(f"the parameters of the tool {name!r} are no schema of an object: give one")
    return Tool(name, str(facts.get("description") or ""), json.dumps({"type": "object"} | dict(schema)))
