"""create_homer_documents_chain: the stuff chain's place in a pipeline, with documents that stay documents."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.language_models import LanguageModelLike
from langchain_core.output_parsers import BaseOutputParser, StrOutputParser
from langchain_core.prompts import BasePromptTemplate, PromptTemplate, format_document
from langchain_core.runnables import Runnable, RunnableLambda

from homer import Document, InputError
from homer_integrations._documents import title_of


def create_homer_documents_chain(
    llm: LanguageModelLike,
    prompt: BasePromptTemplate[Any],
    *,
    output_parser: BaseOutputParser[Any] | None = None,
    document_prompt: BasePromptTemplate[Any] | None = None,
    document_separator: str = "\n\n",
    document_variable_name: str = "context",
) -> Runnable[dict[str, Any], Any]:
    """A chain that hands whole documents to ChatHomer or HomerLLM, with the signature of the stuff chain.

    The model gets the very text that the stuff chain would send it, and knows which of it are documents: what
    stands before them and behind them in the prompt stays whole. It works in `create_retrieval_chain` and in LCEL.

    Args:
        llm: ChatHomer or HomerLLM, bound or configured as you like.
        prompt: a template with the variable named by document_variable_name, once.
        output_parser: None for StrOutputParser.
        document_prompt: how a document is written, from page_content and its metadata; None: its page_content.
        document_separator: what stands between documents.
        document_variable_name: under which name the input holds a list of Documents.

    Raises:
        InputError: a prompt without that variable.
    """
    if document_variable_name not in prompt.input_variables:
        raise InputError(
            f"the prompt has the variables {', '.join(prompt.input_variables) or 'none'}: it needs "
            f"{document_variable_name!r}, where the documents belong"
        )
    template = document_prompt or PromptTemplate.from_template("{page_content}")
    place = f"homer-{secrets.token_hex(16)}"  # no input can hold it

    def hand_over(inputs: dict[str, Any]) -> Runnable[Any, Any]:
        documents = _laid_out(inputs[document_variable_name], template, document_separator)
        filled: Callable[[Any], dict[str, Any]] = lambda _: inputs | {document_variable_name: place}  # noqa: E731
        return RunnableLambda(filled, name="format_inputs") | prompt | llm.bind(documents=documents, place=place)

    chain = RunnableLambda(hand_over, name="hand_over_documents") | (output_parser or StrOutputParser())
    return chain.with_config(run_name="homer_documents_chain")


def _laid_out(documents: Sequence[Any], template: BasePromptTemplate[Any], separator: str) -> tuple[Document, ...]:
    """Documents with all that stands around them, so that together they are the stuff chain's text."""
    laid_out = []
    for number, document in enumerate(documents, 1):
        text, whole = document.page_content, format_document(document, template)
        start = whole.find(text)
        before, text, after = (whole[:start], text, whole[start + len(text) :]) if start >= 0 else ("", whole, "")
        ending = after + (separator if number < len(documents) else "")
        laid_out.append(Document(text, title_of(document.metadata), before, ending))
    return tuple(laid_out)
