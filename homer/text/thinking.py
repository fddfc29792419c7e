"""Thinking: how a model marks what it thinks before it answers, found by what its tokenizer itself says."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import weakref
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from homer.base.arguments import shown
from homer.errors import InputError

KEY = "reasoning_content"  # of an assistant's message: what was thought before it
_KEYS = (KEY, "reasoning", "thinking")  # as chat templates call it
_SWITCHES = ("enable_thinking", "thinking")
_QUESTION, _ANSWER, _THOUGHT = "HOMERQUESTION", "HOMERANSWER", "HOMERTHOUGHT"
_WORD = r"(\|?(?:think|thinking|thought|thoughts|reason|reasoning)\|?[>\]])"
_BEGIN, _END = (re.compile(rf"([<\[]){slash}{_WORD}", re.IGNORECASE) for slash in ("", "/"))
_OWN = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {"messages"}
_FOUND: weakref.WeakKeyDictionary[Any, dict[str, Thinking | None]] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class Thinking:
    """How a model marks its thoughts.

    Attributes:
        begin, end: texts around a thought.
        key: under what its chat template reads the thoughts of earlier messages; None where it reads none.
        opened: whether the prompt itself begins the thought.
        closed: whether the prompt says that there is none.
    """

    begin: str
    end: str
    key: str | None = None
    opened: bool = False
    closed: bool = False

    def split(self, text: str) -> tuple[str, str]:
        """The thought at the head of an earlier answer, if one stands there, and the answer."""
        before, end, after = text.partition(self.end)
        if not end or not (self.opened or before.lstrip().startswith(self.begin)):
            return "", text
        return before.lstrip().removeprefix(self.begin).strip(), after.lstrip()


def find_thinking(tokenizer: Any, options: Mapping[str, Any]) -> Thinking | None:
    """How the model of a tokenizer marks its thoughts; None where nothing tells of any.

    What is asked, in this order: the tokenizer's `response_template`; its chat template, with a thought in an earlier
    message; what the template puts behind the beginning of an answer; its added tokens, and names in the template.

    Args:
        options: variables of the chat template.
    """
    template = tokenizer.chat_template
    if not template:
        return None
    key = json.dumps([template, options], sort_keys=True, default=repr)
    known = _FOUND.setdefault(tokenizer, {})
    if key not in known:
        known[key] = _find(tokenizer, options)
    return known[key]


def as_options(tokenizer: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Variables for a chat template, if it knows them.

    `reasoning_effort` also works the switch of a template that knows no more than on and off: "none" is off.

    Raises:
        InputError: no mapping, or a variable that the template does not read.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InputError(f"chat_template_kwargs={shown(given)} is no mapping of names: give one, or leave it out")
    options = {name: value for name, value in given.items() if value is not None}
    text = str(tokenizer.chat_template or "")
    switches = [name for name in _SWITCHES if _reads(text, name)]
    if "reasoning_effort" in options and not _reads(text, "reasoning_effort") and switches:
        options.setdefault(switches[0], options.pop("reasoning_effort") != "none")
        options.pop("reasoning_effort", None)
    for name in options:
        if name in _OWN or not _reads(text, name):
            raise InputError(
                f"chat_template_kwargs names {name[:80]!r}, which the chat template of this model does not read: leave "
                f"it out{', or give ' + switches[0] if switches else ''}"
            )
    return options


def _reads(template: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", template) is not None


def _find(tokenizer: Any, options: Mapping[str, Any]) -> Thinking | None:
    asked = {"role": "user", "content": _QUESTION}
    opening = _render(tokenizer, options, [asked], True)
    answered = _render(tokenizer, options, [asked, {"role": "assistant", "content": _ANSWER}])
    header = answered.partition(_ANSWER)[0]
    found, key = _declared(tokenizer), None
    for name in _KEYS:
        text = _render(tokenizer, options, [asked, {"role": "assistant", "content": _ANSWER, name: _THOUGHT}])
        marks = _around(text, opening, header)
        if marks is not None:
            found, key = found or marks, name
            break
    found = found or _behind(opening, header) or _named(tokenizer)
    if found is None:
        return None
    tail = opening.rpartition(_QUESTION)[2]
    began, ended = tail.rfind(found[0]), tail.rfind(found[1])
    return Thinking(*found, key, opened=began > ended, closed=ended > began)


def _declared(tokenizer: Any) -> tuple[str, str] | None:
    """By the form in which transformers' `parse_response` reads answers, where the tokenizer brings one."""
    facts = getattr(tokenizer, "response_template", None)
    fields = facts.get("fields") if isinstance(facts, Mapping) else None
    for name in _KEYS:
        field = fields.get(name) if isinstance(fields, Mapping) else None
        marks = [field.get(side) for side in ("open", "close")] if isinstance(field, Mapping) else []
        texts = [mark.strip() for mark in marks if isinstance(mark, str) and mark.strip()]
        if len(texts) == 2:
            return texts[0], texts[1]
    return None


def _around(text: str, opening: str, header: str) -> tuple[str, str] | None:
    """What stands around a thought that the template was given, before the answer."""
    before, thought, rest = text.partition(_THOUGHT)
    between, answer, _ = rest.partition(_ANSWER)
    end = between.strip()
    if not (thought and answer and end):
        return None
    head = opening if len(opening) < len(before) and before.startswith(opening) else header
    begin = _beyond(before, head).strip()
    if not begin:  # the template begins every answer so
        begin = end.replace("/", "", 1)
    return (begin, end) if begin != end and begin in before else None


def _behind(opening: str, header: str) -> tuple[str, str] | None:
    """A mark that the template puts behind the beginning of an answer, as it is not in earlier ones."""
    match = _BEGIN.match(_beyond(opening, header).lstrip())
    return None if match is None else _pair(match)


def _named(tokenizer: Any) -> tuple[str, str] | None:
    """A pair among the added tokens, or in the template, which then takes thoughts out of earlier answers."""
    names = " ".join(str(token) for token in tokenizer.added_tokens_decoder.values())
    for text in (names, str(tokenizer.chat_template)):
        closing = _END.search(text)
        if closing is not None:
            return _pair(closing)
    return None


def _beyond(text: str, known: str) -> str:
    """What of a text follows after all that it begins with in common with another."""
    pairs = enumerate(zip(text, known, strict=False))
    return text[next((n for n, (a, b) in pairs if a != b), min(len(text), len(known))) :]


def _pair(match: re.Match[str]) -> tuple[str, str]:
    return f"{match[1]}{match[2]}", f"{match[1]}/{match[2]}"


def _render(tokenizer: Any, options: Mapping[str, Any], messages: list[dict[str, str]], opens: bool = False) -> str:
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens, **options)
    except Exception:  # templates raise errors of their own on what they do not know
        return ""
    return text
