"""Prompts: a question and documents -> prefix, context and suffix ids, with the origin of every token."""

from __future__ import annotations

import dataclasses
import itertools
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from homer.base.arguments import check_text
from homer.base.buffers import longs
from homer.errors import InputError
from homer.text.documents import Document, DocumentLike, document_numbers, document_ranks, to_documents
from homer.text.kept import ROW, pack, unpack
from homer.text.template import ChatTemplate, Message
from homer.text.thinking import Thinking
from homer.text.tokenizing import Piece, PieceTokenizer

DEFAULT_SYSTEM = "Answer the question from the documents below. Keep the answer short."
_LABEL = "Question: "
PLACE = f"homer-{secrets.token_hex(16)}"  # where documents belong; no text from outside can hold it


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The three parts of a prompt, and where each context token came from.

    Attributes:
        prefix_ids, context_ids, suffix_ids: (n,) each.
        documents: what the context was made of; blank ones are among them, and have no tokens.
        origins: (context tokens, 3): document number, first and end character in the document's text;
            both are 0 for tokens of the header.
        question: what is asked, where that is known.
        question_span: (first, end) of the suffix tokens that ask: of the last message without the template around it.
        thinking: how the model marks what it thinks before it answers; None: it answers at once.
    """

    prefix_ids: Tensor
    context_ids: Tensor
    suffix_ids: Tensor
    documents: tuple[Document, ...]
    origins: Tensor
    question: str = ""
    question_span: tuple[int, int] | None = None
    thinking: Thinking | None = None

    @property
    def document_numbers(self) -> Tensor:
        """(context tokens,), the number of the document that each token is of; -1 where it keeps its place."""
        return document_numbers(self.documents, self.origins)

    @property
    def document_ranks(self) -> Tensor | None:
        """(context tokens,), the rank of the document that each token is of by its score, from 1; None without any."""
        return document_ranks(self.documents, self.origins)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ids of prefix, context and suffix."""
        return self.prefix_ids, self.context_ids, self.suffix_ids

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Tokens of prefix, context and suffix."""
        return len(self.prefix_ids), len(self.context_ids), len(self.suffix_ids)

    def __len__(self) -> int:
        return sum(self.lengths)


class PromptBuilder:
    """Builds prompts by a tokenizer's own chat template, or a plain one where it has none.

    Args:
        template_options: variables of the template, such as enable_thinking. InputError on one that it does not read.
        tick: called now and then while much is read; what it raises ends the work.
    """

    def __init__(
        self,
        tokenizer: Any,
        template_options: Mapping[str, Any] | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._template = ChatTemplate(tokenizer, template_options)
        self._tokenizer = PieceTokenizer(tokenizer, self._template.markers(), tick)
        self._leading = self._tokenizer.leading_ids() if self._template.plain else []

    @property
    def thinking(self) -> Thinking | None:
        """As `Prompt.thinking`."""
        found = self._template.thinking
        return None if found is None or found.closed else found

    def build(self, question: str, documents: Sequence[DocumentLike], system: str | None = None) -> Prompt:
        """The prompt that asks `question` of `documents`.

        Args:
            system: the system message; None for the library's own.

        Raises:
            InputError: no documents, none that holds text, an empty question.
        """
        texts = to_documents(documents)
        if not texts:
            raise InputError("0 documents: give at least one, or ask the model without this library")
        question = _check_question(question)
        return dataclasses.replace(self.around(_asked(question, system), texts, PLACE), question=question)

    def build_affix(self, question: str, system: str | None = None) -> Affix:
        """Prefix and suffix of the prompt that asks `question`; the prefix is the same for every question.

        Raises:
            InputError: an empty question.
        """
        return self.affix(_asked(_check_question(question), system), PLACE)

    def affix_texts(self, question: str, system: str | None = None) -> tuple[str, str]:
        """What stands before and after the documents, as text with the template's control tokens written out."""
        before, after = _cut(self._template.lay_out(_asked(question, system)), PLACE)
        return "".join(piece.text for piece in before), "".join(piece.text for piece in after)

    def around(
        self, messages: Sequence[Message], documents: Sequence[Document], place: str, order: Iterable[int] | None = None
    ) -> Prompt:
        """The prompt with the documents where `place` stands, once, in the messages.

        Args:
            order: the documents' numbers in the order in which they stand there; None for their own order.
        """
        prefix_ids, suffix_ids, span = self.affix(messages, place)
        context_ids, origins = self._context(documents, range(len(documents)) if order is None else order)
        parts = prefix_ids, context_ids, suffix_ids, tuple(documents), origins
        return Prompt(*parts, question_span=span, thinking=self.thinking)

    def affix(self, messages: Sequence[Message], place: str) -> Affix:
        """Prefix and suffix of messages in one of which `place` stands, once."""
        before, after = _cut(self._template.lay_out(messages), place)
        prefix_ids, suffix = self._tokenizer.tokenize(*before).ids, self._tokenizer.tokenize(*after)
        span = _tokens_within(suffix.offsets, _question_chars(after))
        return Affix(longs(self._leading + prefix_ids), longs(suffix.ids), span)

    def whole(self, messages: Sequence[Message]) -> Prompt:
        """The prompt that is the chat template's, token for token; its context is the last message."""
        *_, last, end = pieces = self._template.lay_out(messages)
        ids, offsets = self._tokenizer.tokenize(*pieces)
        stop = sum(len(piece.text) for piece in pieces) - len(end.text)
        start = stop - len(last.text)
        _, starts, stops = unpack([pack(ids, offsets)]).unbind(1)
        inside = ((stops > start) & (starts < stop))[:-1].nonzero().flatten()
        if not len(inside):
            raise InputError("the last message has no token of its own: give it some text")
        first, after = int(inside[0]), int(inside[-1]) + 1
        spans = torch.stack([starts, stops], 1)[first:after].sub(start).clamp_(0, len(last.text))
        parts = (self._leading + ids[:first], ids[first:after], ids[after:])
        prefix_ids, context_ids, suffix_ids = map(longs, parts)
        document = Document(last.text, before="", after="")
        origins = torch.cat([torch.zeros(len(spans), 1, dtype=torch.long), spans], 1)
        return Prompt(prefix_ids, context_ids, suffix_ids, (document,), origins, thinking=self.thinking)

    def question_in(self, suffix_ids: Tensor) -> tuple[int, int]:
        """(first, end) of what asks in a suffix (n,) of ids: all but what the template puts around it."""
        closing = self._tokenizer.tokenize(self._template.lay_out([{"role": "user", "content": "?"}])[-1]).ids
        ids = suffix_ids.tolist()
        end = len(ids) - len(closing) if closing and ids[-len(closing) :] == closing else len(ids)
        asks = [i for i in range(end) if ids[i] not in self._tokenizer.control_ids]
        return (asks[0], asks[-1] + 1) if asks else (0, len(ids))

    def tokenize(self, *texts: str) -> list[Tensor]:
        """Of every text from outside its tokens (n, 3): id, first and end character. Raises InputError on no text."""
        checked = [check_text("what is to be tokenized", text) for text in texts]
        return [unpack([packed]) for packed in self._tokenizer.tokenize_texts(checked)]

    def _context(self, documents: Sequence[Document], order: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Ids (n,) and origins (n, 3) of the documents in this order."""
        numbers = [number for number in order if not documents[number].blank]
        filled = [documents[number] for number in numbers]
        packed = self._tokenizer.tokenize_texts(document.render() for document in filled)
        counts = longs(len(rows) // ROW for rows in packed)
        columns = numbers, (len(document.header) for document in filled), (len(document.text) for document in filled)
        owners, shifts, lengths = (longs(column).repeat_interleave(counts) for column in columns)
        ids, first, end = unpack(packed).unbind(1)
        spans = [(edges - shifts).clamp_(min=0).minimum(lengths) for edges in (first, end)]
        return ids.contiguous(), torch.stack([owners, *spans], 1)


class Affix(NamedTuple):
    """Prefix and suffix ids (n,) of a prompt, and (first, end) of the suffix tokens that ask."""

    prefix_ids: Tensor
    suffix_ids: Tensor
    question_span: tuple[int, int]


def asking(messages: Sequence[Message], place: str, first: bool = False) -> list[Message]:
    """Messages whose last one asks of documents that will stand at `place`; with a system message in any case.

    Args:
        first: the user's first message asks of them, not the last, so that what stands before stays the same.
    """
    arranged = list(messages)
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    holder = users[0 if first else -1]
    arranged[holder] = {"role": "user", "content": f"{place}{_LABEL}{messages[holder]['content']}"}
    if not any(message["role"] == "system" for message in messages):
        arranged.insert(0, {"role": "system", "content": DEFAULT_SYSTEM})
    return arranged


def span_that_asks(
    tokenizer: Any, options: Mapping[str, Any], suffix_ids: Tensor, given: tuple[int, int] | None
) -> tuple[int, int]:
    """(first, end) of the tokens of a suffix (n,) that ask; where it is not given, all but the template's.

    Raises:
        InputError: a span that is no part of the suffix.
    """
    if given is None:
        whole = (0, len(suffix_ids))
        return whole if tokenizer is None else PromptBuilder(tokenizer, options).question_in(suffix_ids)
    if not 0 <= given[0] < given[1] <= len(suffix_ids):
        raise InputError(
            f"question_span={given} is no part of a suffix of {len(suffix_ids)} tokens: give (first, end) with "
            f"0 <= first < end <= {len(suffix_ids)}"
        )
    return given


def _check_question(question: str) -> str:
    if not check_text("the question", question).strip():
        raise InputError("the question is empty: give one")
    return check_text("the question", question)


def _asked(question: str, system: str | None) -> list[Message]:
    messages = [] if system is None else [{"role": "system", "content": check_text("system", system)}]
    return asking([*messages, {"role": "user", "content": question}], PLACE)


def _cut(pieces: Sequence[Piece], place: str) -> tuple[list[Piece], list[Piece]]:
    """The pieces before and behind the only place where `place` stands."""
    found = [(number, piece) for number, piece in enumerate(pieces) if place in piece.text]
    times = sum(piece.text.count(place) for piece in pieces)
    if times != 1:
        raise InputError(f"the place of the documents stands {times} times in the messages: it must stand there once")
    ((number, piece),) = found
    before, after = piece.text.split(place)
    return [*pieces[:number], Piece(before)], [Piece(after), *pieces[number + 1 :]]


def _question_chars(pieces: Sequence[Piece]) -> tuple[int, int]:
    """(first, end) of the last text from outside in the joined pieces, without the label before it; else of all."""
    starts = itertools.accumulate((len(piece.text) for piece in pieces), initial=0)
    texts = [(start, piece) for start, piece in zip(starts, pieces, strict=False) if not piece.trusted]
    asking = [(start, piece.text) for start, piece in texts if piece.text.strip()]
    if not asking:
        return 0, sum(len(piece.text) for piece in pieces)
    start, text = asking[-1]
    bare = text.removeprefix(_LABEL)
    return start + len(text) - len(bare if bare.strip() else text), start + len(text)


def _tokens_within(offsets: Sequence[tuple[int, int]], chars: tuple[int, int]) -> tuple[int, int]:
    """(first, end) of the tokens that share a character with a span; all where none does."""
    within = [i for i, (a, b) in enumerate(offsets) if a < chars[1] and b > chars[0]]
    return (within[0], within[-1] + 1) if within else (0, len(offsets))
