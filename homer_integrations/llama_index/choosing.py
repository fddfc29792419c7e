"""For stock routers and sub-question engines: choices that are always among those there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.schema import QueryBundle
from llama_index.core.tools.types import ToolMetadata

from homer import GenerationError, InputError
from homer_integrations.llama_index.llm import HomerLLM
from homer_integrations.llama_index.tools import form_of

_CHOOSE = "Choose {which} for the question.\n\n{choices}\n\nQuestion: {question}"
_SPLIT = (
    "Break the question up into questions that the tools below can answer, each by one of them.\n\n{choices}\n\n"
    "Question: {question}"
)


class HomerSelector(BaseSelector):
    """Chooses by constrained output, so that no choice is out of range, as those of stock selectors may be.

    Args:
        llm: a HomerLLM.
        multiple: whether several may be chosen; each at most once.
    """

    def __init__(self, llm: HomerLLM, *, multiple: bool = False) -> None:
        self._llm, self._multiple = _checked(llm), multiple

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        messages, form = self._asked(choices, query)
        return _selected(self._llm.chat(messages, response_format=form))

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        messages, form = self._asked(choices, query)
        return _selected(await self._llm.achat(messages, response_format=form))

    def _asked(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> tuple[list[ChatMessage], dict[str, Any]]:
        if not choices:
            raise InputError("0 choices: give at least one")
        one: dict[str, Any] = {"enum": list(range(1, len(choices) + 1))}
        several = {"type": "array", "items": one, "minItems": 1, "maxItems": len(choices)}
        which = "those that fit" if self._multiple else "the one that fits best"
        listed = "\n".join(f"{number}. {choice.description}" for number, choice in enumerate(choices, 1))
        text = _CHOOSE.format(which=which, choices=listed, question=query.query_str)
        return [_user(text)], _form("choice", several if self._multiple else one)

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """There are none."""


class HomerQuestionGenerator(BaseQuestionGenerator):
    """Breaks a question up by constrained output: every part names a tool that there is.

    Args:
        llm: a HomerLLM.
        most: how many questions may come.
    """

    def __init__(self, llm: HomerLLM, *, most: int = 4) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise InputError(f"most={most!r} questions: give a whole number from 1 on")
        self._llm, self._most = _checked(llm), most

    def generate(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> list[SubQuestion]:
        """The questions, each with its tool."""
        messages, form = self._asked(tools, query)
        return _questions(self._llm.chat(messages, response_format=form))

    async def agenerate(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> list[SubQuestion]:
        """As `generate`; the event loop goes on meanwhile."""
        messages, form = self._asked(tools, query)
        return _questions(await self._llm.achat(messages, response_format=form))

    def _asked(self, tools: Sequence[ToolMetadata], query: QueryBundle) -> tuple[list[ChatMessage], dict[str, Any]]:
        if not tools:
            raise InputError("0 tools: give at least one")
        properties = {
            "sub_question": {"type": "string", "minLength": 1, "maxLength": 200},
            "tool_name": {"enum": [tool.get_name() for tool in tools]},
        }
        question = {"type": "object", "properties": properties, "required": list(properties)}
        listed = "\n".join(f"{tool.get_name()}: {tool.description}" for tool in tools)
        text = _SPLIT.format(choices=listed, question=query.query_str)
        return [_user(text)], _form(
            "questions", {"type": "array", "items": question, "minItems": 1, "maxItems": self._most}
        )

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """There are none."""


def _selected(response: ChatResponse) -> SelectorResult:
    chosen = _value(response, "choice")
    numbers = dict.fromkeys(chosen if isinstance(chosen, list) else [chosen])  # each once, in their order
    return SelectorResult(selections=[SingleSelection(index=number - 1, reason="chosen") for number in numbers])


def _questions(response: ChatResponse) -> list[SubQuestion]:
    return [SubQuestion(**question) for question in _value(response, "questions")]


def _form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return form_of({"type": "object", "properties": {name: schema}, "required": [name]})


def _value(response: ChatResponse, name: str) -> Any:
    try:
        return json.loads(response.message.content or "")[name]
    except ValueError:
        raise GenerationError(f"{name!r} was cut short: raise max_tokens") from None


def _user(text: str) -> ChatMessage:
    return ChatMessage(role=MessageRole.USER, content=text)


def _checked(llm: Any) -> HomerLLM:
    if not isinstance(llm, HomerLLM):
        raise InputError(f"llm is a {type(llm).__name__}, whose output is not held to choices: give a HomerLLM")
    return llm
