"""Conversations with tools, as conversations of words alone: what the model is told, and what was called before."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from homer.base.arguments import shown
from homer.errors import InputError
from homer.text.constraining.calls import BEGIN, END, Call, Tool
from homer.text.template import RESULT, TRUSTED
from homer.text.thinking import KEY

_TOLD = (
    '\n\nYou may call tools. To call one, write {begin}{{"name": ..., "arguments": {{...}}}}{end} and nothing else.\n'
    "Tools:\n{tools}"
)
_MARKS = "HOMERFIRST", "HOMERSECOND"
_PROBE = Call("homer_probe", '{"a": "b"}')
_KEYS = {"assistant": {"role", "content", "tool_calls", KEY}, "tool": {"role", "content", "tool_call_id", "name"}}


@dataclasses.dataclass(frozen=True)
class ToolTexts:
    """What stands before and after the system's own words where there are tools.

    Attributes:
        taught: whether the chat template tells of tools, in whatever form: then the model was taught when to call.
        alone: the whole message where the system says nothing of its own, if the template has one.
        usual: what the template lets the system say then where there are no tools.
    """

    before: str
    after: str
    taught: bool = False
    alone: str | None = None
    usual: str = ""

    def with_told(self, text: str) -> ToolTexts:
        """The same with one more line right behind the system's own words."""
        if not text:
            return self
        after, alone = f"\n{text}{self.after}", self.alone
        if alone is not None and alone.endswith(self.after):
            alone = f"{alone.removesuffix(self.after)}{after}"
        elif alone is not None:  # as of templates that begin with the tools where nothing stands before them
            alone = after.lstrip() if alone == self.after.lstrip() else f"{alone}\n{text}"
        return dataclasses.replace(self, after=after, alone=alone)

    def around(self, words: str | None) -> str:
        """The system's message; None where it says nothing of its own."""
        if words is None and self.alone is not None:
            return self.alone
        words = (self.usual or None) if words is None else words
        return f"{self.before}{words}{self.after}" if words is not None else f"{self.before}{self.after}".strip()

    def unsaid(self) -> dict[str, Any]:
        """The message of a system that says nothing of its own, for `said`: nobody knows yet of documents."""
        return _Unsaid(self)


class _Unsaid(dict[str, Any]):
    """A system's message in which others' words may stand; as it is, it has the chat template's own."""

    def __init__(self, texts: ToolTexts) -> None:
        super().__init__(role="system", content=texts.around(None))
        self.texts = texts


def said(messages: Any, words: str | None) -> Any:
    """The messages of a turn, in which a system that says nothing of its own says these words; None: the template's."""
    if words is None or not isinstance(messages, list):
        return messages
    return [
        {"role": "system", "content": message.texts.around(words)} if isinstance(message, _Unsaid) else message
        for message in messages
    ]


def texts_for(tokenizer: Any, tools: Sequence[Tool]) -> ToolTexts:
    """By the tokenizer's chat template, where it tells of tools and writes calls as this library reads them."""
    given = [tool.to_dict() for tool in tools]
    found = _by_template(tokenizer, given) if tokenizer.chat_template else None
    if found is not None:
        own = _own_names(tokenizer, found, len(given))
        before, after, alone = (None if text is None else _trusting(text, own) for text in found)
        return ToolTexts(before or "", after or "", True, alone, usual_words(tokenizer))
    begin, end = (_trusting(mark, sorted(marks_of(tokenizer))) for mark in (BEGIN, END))
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in given)
    after = _TOLD.format(begin=begin, end=end, tools=lines)
    return ToolTexts("", after, _tells_of(tokenizer, given), None, usual_words(tokenizer))


def _tells_of(tokenizer: Any, tools: list[dict[str, Any]]) -> bool:
    """Whether the chat template tells of tools, though it may write calls in another form than this library reads."""
    user, name = [{"role": "user", "content": _MARKS[1]}], tools[0]["function"]["name"]
    try:
        told, untold = (_render(tokenizer, user, given) for given in (tools, None))
    except Exception:  # of no template, or of templates that raise errors of their own
        return False
    return told.count(name) > untold.count(name)


def usual_words(tokenizer: Any) -> str:
    """What the chat template lets the system say where a conversation has no words of the system; mostly nothing."""
    if not tokenizer.chat_template:
        return ""
    system, user = {"role": "system", "content": _MARKS[0]}, {"role": "user", "content": _MARKS[1]}
    try:
        told = _around(_render(tokenizer, [system, user], None))
        silent = _render(tokenizer, [user], None).partition(_MARKS[1])[0]
    except Exception:  # templates raise errors of their own on what they do not know
        return ""
    if told is None or len(silent) <= len(told[0] + told[1]):
        return ""
    begins, ends = silent.startswith(told[0]), silent.endswith(told[1])
    return silent[len(told[0]) : len(silent) - len(told[1])] if begins and ends else ""


def marks_of(tokenizer: Any) -> set[str]:
    """Which of the two marks of a call are tokens of their own."""
    return {BEGIN, END} & set(tokenizer.get_added_vocab())


def in_words(messages: Sequence[Mapping[str, Any]], texts: ToolTexts | None = None) -> list[dict[str, Any]]:
    """Messages of system, user and assistant alone, in which calls and what tools gave are written out.

    Args:
        messages: with `role` and `content`; an assistant's may have `tool_calls` as in OpenAI's endpoints, and
            `reasoning_content`; a tool's role is "tool", with its `tool_call_id`.
        texts: what the system says of tools; None says nothing.

    Raises:
        InputError: calls that are none.
    """
    arranged: list[dict[str, Any]] = []
    for number, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, Mapping) else None
        known = _KEYS.get(str(role))
        if known is None or set(message) - known:
            arranged.append(message)  # type: ignore[arg-type]  # whatever it is, is looked at where all are
        elif role == "assistant":
            written = [_written(call, number) for call in message.get("tool_calls") or ()]
            words = [message.get("content") or ""] if message.get("content") or not written else []
            thought = {KEY: message[KEY]} if message.get(KEY) else {}
            arranged.append({"role": "assistant", "content": "\n".join([*words, *written])} | thought)
        else:
            _add_result(arranged, (message.get("content") or "").join(RESULT))
    return arranged if texts is None else _with_system(arranged, texts)


def shares_a_word(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> bool:
    """Whether what the user says last, if the user does, names a tool or a word of its description."""
    if not messages or messages[-1].get("role") != "user":
        return False
    asked = _words(str(messages[-1].get("content")))
    return any(asked & _words(f"{tool.name} {tool.description}") for tool in tools)


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[^\W_]+", text.lower()) if len(word) > 3}


def _with_system(messages: list[dict[str, Any]], texts: ToolTexts) -> list[dict[str, Any]]:
    first = messages[0] if messages else {}
    if isinstance(first, Mapping) and first.get("role") == "system" and isinstance(first.get("content"), str):
        return [{"role": "system", "content": texts.around(first["content"])}, *messages[1:]]
    later = any(isinstance(message, Mapping) and message.get("role") == "system" for message in messages)
    return [{"role": "system", "content": texts.around(None)} if later else texts.unsaid(), *messages]


def _add_result(arranged: list[dict[str, Any]], text: str) -> None:
    """What a tool gave, as the user's message; several results are one."""
    if arranged and isinstance(arranged[-1], _Results):
        arranged[-1]["content"] += f"\n{text}"
    else:
        arranged.append(_Results({"role": "user", "content": text}))


class _Results(dict[str, Any]):
    """A message of results, which more may join."""


def _written(call: Any, number: int) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(f"message {number} has a tool call {shown(call)}: give 'function' with 'name' and 'arguments'")
    given = function.get("arguments")
    arguments = given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False)
    return f"{TRUSTED}{BEGIN}{TRUSTED}\n{Call(function['name'], arguments or '{}').written()}\n{TRUSTED}{END}{TRUSTED}"


def _by_template(tokenizer: Any, tools: list[dict[str, Any]]) -> tuple[str, str, str | None] | None:
    """What the template says of tools before and after the system's words, and what the system says where it has none.

    None where it says nothing of them, or writes calls otherwise.
    """
    probe = {"name": _PROBE.name, "arguments": json.loads(_PROBE.arguments)}
    called = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": probe}]}
    plain = [{"role": "system", "content": _MARKS[0]}, {"role": "user", "content": _MARKS[1]}]
    try:
        history = _render(tokenizer, [*plain, called, plain[1]], tools)
        told, untold = (_around(_render(tokenizer, plain, given)) for given in (tools, None))
        silent = _render(tokenizer, plain[1:], tools).partition(_MARKS[1])[0]
    except Exception:  # templates raise errors of their own on what they do not know
        return None
    if f"{BEGIN}\n{_PROBE.written()}\n{END}" not in history or told is None or untold is None:
        return None
    if not told[0].startswith(untold[0]) or not told[1].endswith(untold[1]):
        return None
    before, after = told[0][len(untold[0]) :], told[1][: len(told[1]) - len(untold[1])]
    if tools[0]["function"]["name"] not in before + after:
        return None
    begins, ends = silent.startswith(untold[0]), silent.endswith(untold[1])
    alone = silent[len(untold[0]) : len(silent) - len(untold[1])] if begins and ends else None
    return before, after, alone


def _own_names(tokenizer: Any, found: tuple[str | None, ...], count: int) -> list[str]:
    """Names of the tokenizer's own tokens that the template itself writes, since it does so for empty tools as well."""
    facts = [{"name": f"homer_probe_{n}", "description": "", "parameters": {"type": "object"}} for n in range(count)]
    empty = _by_template(tokenizer, [{"type": "function", "function": each} for each in facts])
    if empty is None:
        return []
    written, wanted = ("".join(text or "" for text in texts) for texts in (found, empty))
    return [name for name in tokenizer.get_added_vocab() if 0 < written.count(name) == wanted.count(name)]


def _trusting(text: str, names: Sequence[str]) -> str:
    """The text with these names marked: they become the tokens that they are."""
    if not names:
        return text
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.sub(pattern, lambda name: f"{TRUSTED}{name[0]}{TRUSTED}", text)


def _render(tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
    text: str = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    return text


def _around(text: str) -> tuple[str, str] | None:
    """What stands before the first mark, and between the two."""
    before, first, rest = text.partition(_MARKS[0])
    between, second, _ = rest.partition(_MARKS[1])
    return (before, between) if first and second else None
