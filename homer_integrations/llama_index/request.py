"""Request: one question of a synthesizer, from the template to the figures of the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.synthesis import GetResponseEndEvent, GetResponseStartEvent
from llama_index.core.prompts import BasePromptTemplate
from pydantic import BaseModel

from homer import Document, InputError
from homer_integrations.llama_index.llm import HomerLLM
from homer_integrations.llama_index.nodes import text_of
from homer_integrations.llama_index.survival import Survival
from homer_integrations.llama_index.tools import form_of, object_of
from homer_integrations.shared.marks import KEY, PLACE, make_mark

_dispatcher = get_dispatcher(__name__)


class Request:
    """One question: the messages of the template with the documents in them, marked.

    Attributes:
        empty: whether no text holds anything to read.
        wanted: arguments of the call by which an object of a class comes.
    """

    def __init__(
        self,
        llm: HomerLLM,
        template: BasePromptTemplate,
        query_str: str,
        texts: Sequence[str],
        survival: Survival,
        variables: dict[str, Any],
        output_cls: type[BaseModel] | None = None,
    ) -> None:
        self.wanted = {} if output_cls is None else {"response_format": form_of(output_cls)}
        self._output_cls = output_cls
        self.empty = not any(text.strip() for text in texts)
        self._llm, self._query_str, self._survival = llm, query_str, survival
        none = [None] * len(texts)
        known = zip(texts, survival.titles or none, survival.scores or none, strict=True)
        documents = [Document(text, title, before="Document:\n", score=score) for text, title, score in known]
        variables = variables | {"query_str": query_str}
        self.messages = _marked_messages(llm, template, documents, variables)
        llm._log_template_data(template, context_str="\n\n".join(texts), **variables)
        _dispatcher.event(GetResponseStartEvent(query_str=query_str, text_chunks=list(texts)))

    def finish(self, response: ChatResponse) -> str | BaseModel:
        """The text of the whole response, or the object that it says; its figures go to the nodes."""
        facts = response.raw["homer"] | {"question": self._query_str}  # type: ignore[index]
        self._survival.answered(facts)
        _dispatcher.event(GetResponseEndEvent())
        if self._output_cls is not None:
            return object_of(response, self._output_cls)
        return self._llm._parse_output(response.message.content or "")

    def stream(self) -> Generator[str, None, None]:
        """The text as it is generated."""
        for response in self._llm.stream_chat(self.messages):
            if response.raw is not None:
                self.finish(response)
            elif response.delta:
                yield response.delta

    async def astream(self) -> AsyncGenerator[str, None]:
        """The text as it is generated; the event loop goes on meanwhile."""
        async for response in await self._llm.astream_chat(self.messages):
            if response.raw is not None:
                self.finish(response)
            elif response.delta:
                yield response.delta


def _marked_messages(
    llm: HomerLLM, template: BasePromptTemplate, documents: Sequence[Document], variables: dict[str, Any]
) -> list[ChatMessage]:
    """The messages of a template with the documents' text in them, as every trace sees it, and a mark where it is.

    Raises:
        InputError: a template that has {context_str} not once, or changes what it stands for.
    """
    whole = "".join(document.render() for document in documents)
    filled, cut = (llm._get_messages(template, context_str=text, **variables) for text in (whole, PLACE))
    times = sum(text_of(message).count(PLACE) for message in cut)
    if times != 1:
        raise InputError(
            f"text_qa_template puts {{context_str}} {times} times into its messages: it must stand there once"
        )
    messages: list[ChatMessage] = []
    for message, bare in zip(filled, map(text_of, cut), strict=True):
        if text_of(message) != bare.replace(PLACE, whole):
            raise InputError("text_qa_template changes {context_str}, or what stands beside it: put it in as it is")
        mark = make_mark(text_of(message), bare, documents)
        extra = {KEY: mark} if mark and PLACE in bare else {}
        messages.append(message.model_copy(update={"additional_kwargs": message.additional_kwargs | extra}))
    return messages
