"""create_homer_documents_chain: the stuff chain's place in a pipeline, with documents that stay documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langchain_core.language_models import LanguageModelLike
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import BaseOutputParser, StrOutputParser
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.prompts import BasePromptTemplate, PromptTemplate, format_document
from langchain_core.runnables import Runnable, RunnableLambda

from homer import Document, InputError
from homer_integrations.langchain.chat import ChatHomer
from homer_integrations.langchain.sourced import with_sources
from homer_integrations.shared.documents import note_scoreless, score_of, title_of
from homer_integrations.shared.marks import KEY, PLACE, MarkedText, make_mark
from homer_integrations.shared.once import items_of


def create_homer_documents_chain(
    llm: LanguageModelLike,
    prompt: BasePromptTemplate[Any],
    *,
    output_parser: BaseOutputParser[Any] | None = None,
    document_prompt: BasePromptTemplate[Any] | None = None,
    document_separator: str = "\n\n",
    document_variable_name: str = "context",
    return_sources: bool = False,
    score_key: str | None = None,
) -> Runnable[dict[str, Any], Any]:
    """A chain that hands whole documents to ChatHomer or HomerLLM, with the signature of the stuff chain.

    Every model gets the very text that the stuff chain would send it, and so do tracers. ChatHomer and HomerLLM know
    which of it are documents: what stands before them and behind them in the prompt stays whole. Another model, such
    as a fallback, reads it as it is. It works in `create_retrieval_chain` and in LCEL.

    Args:
        llm: ChatHomer or HomerLLM, bound or configured as you like, with fallbacks of any kind.
        prompt: a template with the variable named by document_variable_name, once.
        output_parser: None for StrOutputParser.
        document_prompt: how a document is written, from page_content and its metadata; None: its page_content.
        document_separator: what stands between documents.
        document_variable_name: under which name the input holds a list of Documents.
        return_sources: give {"answer", "context", "citations"}: what the parser makes of the answer, the documents as
            they were given, and for each sentence of the answer the parts of documents that it rests on, their `index`
            counting those of "context". A ChatHomer is asked for citations; one inside of something else, such as a
            model with fallbacks, says them where it was made with `cite=True`; other models say none. A stream gives
            pieces of the answer first.
        score_key: under which metadata of documents have their retriever's score; see `Question.prior` of homer.

    Raises:
        InputError: a prompt without that variable, or, when called, one that has it more than once.
    """
    if document_variable_name not in prompt.input_variables:
        raise InputError(
            f"the prompt has the variables {', '.join(prompt.input_variables) or 'none'}: it needs "
            f"{document_variable_name!r}, where the documents belong"
        )
    if return_sources and isinstance(llm, ChatHomer):
        llm = llm.bind(cite=True)
    template = document_prompt or PromptTemplate.from_template("{page_content}")

    def hand_over(inputs: dict[str, Any]) -> Runnable[Any, Any]:
        documents = _laid_out(inputs[document_variable_name], template, document_separator, score_key)
        filled = inputs | {document_variable_name: "".join(document.render() for document in documents)}
        cut = inputs | {document_variable_name: PLACE}

        def mark(value: PromptValue) -> PromptValue:
            return _marked(value, prompt.invoke(cut, _UNTRACED), documents)

        async def amark(value: PromptValue) -> PromptValue:
            return _marked(value, await prompt.ainvoke(cut, _UNTRACED), documents)

        filling: Runnable[Any, dict[str, Any]] = RunnableLambda(lambda _: filled, name="format_inputs")
        return filling | prompt | RunnableLambda(mark, amark, name="mark_documents") | llm

    said: Runnable[Any, Any] = RunnableLambda(hand_over, name="hand_over_documents")
    parser = output_parser or StrOutputParser()
    chain = with_sources(said, parser, document_variable_name) if return_sources else said | parser
    return chain.with_config(run_name="homer_documents_chain")


_UNTRACED: Any = {"callbacks": []}


class _DocumentsPrompt(ChatPromptValue):
    """A prompt, as messages and as a string, that says in both where its documents stand."""

    text: str
    mark: dict[str, Any] | None = None

    def to_string(self) -> str:
        return MarkedText(self.text, self.mark)


def _marked(real: PromptValue, cut: PromptValue, documents: tuple[Document, ...]) -> PromptValue:
    """A prompt, and the same with PLACE for its documents -> the prompt with marks where they stand."""
    times = sum(_text_of(message).count(PLACE) for message in cut.to_messages())
    if times != 1:
        raise InputError(f"the prompt puts the documents {times} times into its messages: they must stand there once")
    text = real.to_string()
    messages = [
        _marked_message(message, _text_of(template), documents)
        for message, template in zip(real.to_messages(), cut.to_messages(), strict=True)
    ]
    return _DocumentsPrompt(messages=messages, text=text, mark=make_mark(text, cut.to_string(), documents))


def _marked_message(message: BaseMessage, cut: str, documents: tuple[Document, ...]) -> BaseMessage:
    mark = make_mark(_text_of(message), cut, documents) if PLACE in cut else None
    if mark is None:
        return message
    return message.model_copy(update={"additional_kwargs": message.additional_kwargs | {KEY: mark}})


def _text_of(message: BaseMessage) -> str:
    """The text of a message as `to_conversation` reads it."""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(b if isinstance(b, str) else b.get("text", "") for b in message.content if _is_text(b))


def _is_text(block: Any) -> bool:
    return isinstance(block, str) or (block.get("type") == "text" and isinstance(block.get("text"), str))


def _laid_out(
    documents: Iterable[Any], template: BasePromptTemplate[Any], separator: str, score_key: str | None
) -> tuple[Document, ...]:
    """Documents with all that stands around them, so that together they are the stuff chain's text."""
    given = items_of(documents)
    laid_out = []
    for number, document in enumerate(given, 1):
        text, whole = document.page_content, format_document(document, template)
        start = whole.find(text)
        before, text, after = (whole[:start], text, whole[start + len(text) :]) if start >= 0 else ("", whole, "")
        ending = after + (separator if number < len(given) else "")
        score = score_of(document.metadata, score_key)
        laid_out.append(Document(text, title_of(document.metadata), before, ending, score=score))
    note_scoreless(laid_out, score_key)
    return tuple(laid_out)
