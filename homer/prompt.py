"""Prompts: a question and documents -> prefix, context and suffix ids, with the origin of every token."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from homer.encoding import Encoder, Piece, template_markers
from homer.errors import InputError

DEFAULT_SYSTEM = "Answer the question from the documents below. Keep the answer short."
_QUESTION = "Question: "
_SYSTEM_MARK, _USER_MARK = "HOMERSYSTEMTEXT", "HOMERUSERTEXT"
_PLAIN_TEMPLATE = (f"{_SYSTEM_MARK}\n\n", "\nAnswer:")

DocumentLike = str | Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Document:
    """A text to answer from, and its title."""

    text: str
    title: str | None = None

    @functools.cached_property
    def header(self) -> str:
        """The line that stands before the text in a prompt."""
        return f"Document: {self.title}\n" if self.title else "Document:\n"

    def render(self) -> str:
        """The document as it stands in a prompt."""
        return f"{self.header}{self.text}\n\n"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The three parts of a prompt, and where each context token came from.

    Attributes:
        prefix_ids, context_ids, suffix_ids: (n,) each.
        documents: what the context was made of.
        origins: (context tokens, 3): document number, first and end character in the document's text;
            both are 0 for tokens of the header.
    """

    prefix_ids: Tensor
    context_ids: Tensor
    suffix_ids: Tensor
    documents: tuple[Document, ...]
    origins: Tensor

    def __len__(self) -> int:
        return len(self.prefix_ids) + len(self.context_ids) + len(self.suffix_ids)


def to_document(document: DocumentLike, number: int = 1) -> Document:
    """A string, or a mapping with `text` and maybe `title`, as a Document.

    Raises:
        InputError: another type, another key, or a document without text.
    """
    if isinstance(document, str):
        document = {"text": document}
    if not isinstance(document, Mapping) or not isinstance(document.get("text"), str):
        raise InputError(f"document {number} is neither a string nor a mapping with a string under 'text'")
    unknown = sorted(set(document) - {"title", "text"})
    if unknown:
        raise InputError(f"document {number} has a key {unknown[0]!r}: only 'title' and 'text' are read")
    if not document["text"].strip():
        raise InputError(f"document {number} holds no text: leave it out")
    return Document(document["text"], document.get("title"))


class PromptBuilder:
    """Builds prompts by a tokenizer's own chat template, or a plain one where it has none."""

    def __init__(self, tokenizer: Any, template_options: Mapping[str, Any] | None = None) -> None:
        self._before, self._after = _template_parts(tokenizer, dict(template_options or {}))
        literals = (self._before.replace(_SYSTEM_MARK, " "), self._after)
        self._encoder = Encoder(tokenizer, template_markers(literals) if tokenizer.chat_template else ())
        self._leading = [] if tokenizer.chat_template else self._encoder.leading_ids()

    def build(self, question: str, documents: Sequence[DocumentLike], system: str | None = None) -> Prompt:
        """The prompt that asks `question` of `documents`.

        Args:
            system: the system message; None for the library's own.

        Raises:
            InputError: no documents, a document without text, an empty question.
        """
        if isinstance(documents, str | Mapping):
            raise InputError("documents is one document: give a list of documents")
        if not documents:
            raise InputError("0 documents: give at least one, or ask the model without this library")
        if not question.strip():
            raise InputError("the question is empty: give one")
        texts = tuple(to_document(document, number) for number, document in enumerate(documents, 1))
        context_ids, origins = self._context(texts)
        return Prompt(
            prefix_ids=torch.tensor(self._prefix(system)),
            context_ids=context_ids,
            suffix_ids=torch.tensor(self._suffix(question)),
            documents=texts,
            origins=origins,
        )

    def affix_texts(self, question: str, system: str | None = None) -> tuple[str, str]:
        """What stands before and after the documents, as text with the template's control tokens written out."""
        before = self._before.replace(_SYSTEM_MARK, DEFAULT_SYSTEM if system is None else system)
        return before, f"{_QUESTION}{question}{self._after}"

    def _prefix(self, system: str | None) -> list[int]:
        first, _, rest = self._before.partition(_SYSTEM_MARK)
        middle = Piece(DEFAULT_SYSTEM if system is None else system)
        pieces = (Piece(first, True), middle, Piece(rest, True))
        return self._leading + self._encoder.encode(*pieces).ids

    def _suffix(self, question: str) -> list[int]:
        return self._encoder.encode(Piece(_QUESTION + question), Piece(self._after, True)).ids

    def _context(self, documents: Iterable[Document]) -> tuple[Tensor, Tensor]:
        ids: list[int] = []
        origins: list[tuple[int, int, int]] = []
        for number, document in enumerate(documents):
            encoded = self._encoder.encode(Piece(document.render()))
            shift, length = len(document.header), len(document.text)
            ids += encoded.ids
            spans = ((_clamp(a - shift, length), _clamp(b - shift, length)) for a, b in encoded.offsets)
            origins += [(number, start, end) for start, end in spans]
        return torch.tensor(ids), torch.tensor(origins)


def _clamp(place: int, length: int) -> int:
    return max(0, min(place, length))


def _template_parts(tokenizer: Any, options: dict[str, Any]) -> tuple[str, str]:
    """Fixed text of the chat template around the user's words; the system's are marked."""
    if not tokenizer.chat_template:
        return _PLAIN_TEMPLATE
    system = {"role": "system", "content": _SYSTEM_MARK}
    user = {"role": "user", "content": _USER_MARK}
    joined = {"role": "user", "content": f"{_SYSTEM_MARK}\n\n{_USER_MARK}"}
    for messages in ([system, user], [joined]):  # not every template knows a system role
        text = _render(tokenizer, messages, options)
        if text is not None and _SYSTEM_MARK in text and text.count(_USER_MARK) == 1:
            before, after = text.split(_USER_MARK)
            return before, after
    raise InputError("the chat template leaves out the user's message: give the tokenizer another chat_template")


def _render(tokenizer: Any, messages: list[dict[str, str]], options: dict[str, Any]) -> str | None:
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    except Exception:  # templates raise errors of their own on roles they do not know
        return None
    return text
