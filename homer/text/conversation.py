"""Conversations: what of one stays whole, and what becomes context, where it is longer than the window."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

from homer.base.arguments import replace_surrogates
from homer.errors import InputError
from homer.text.documents import Document, DocumentLike, to_documents
from homer.text.prompt import DEFAULT_SYSTEM, PLACE, Prompt, PromptBuilder, asking
from homer.text.template import TRUSTED, Message
from homer.text.thinking import KEY
from homer.text.tools import said

EARLIER_TITLE = "Earlier conversation"
_MERGED = 8  # tokens that a message may lose to its neighbours, and more than any ever does
_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """In tokens: how long a prompt may be and stay whole, and the longest chunk of a longer one."""

    whole: int
    max_chunk_len: int

    @property
    def affix(self) -> int:
        """Longest prefix and suffix together: the other half of every chunk is for the context."""
        return self.max_chunk_len // 2


def build_conversation(
    builder: PromptBuilder,
    messages: Sequence[Message],
    documents: Sequence[DocumentLike],
    limits: Limits,
    place: str | None = None,
    documents_first: bool = False,
) -> Prompt:
    """The prompt of a conversation; the last user message is never compressed where there are documents.

    Without documents it is the chat template's, whole where it fits. Where it does not, earlier turns join the
    context, the oldest first; where that is not enough, the longer of the system's and the last user's message
    does, but for its first and last lines.

    Args:
        place: text that stands in one message, once, where the documents belong; None: before the question.
        documents_first: without a place, they stand before the user's first question, and earlier turns that join
            the context behind them; then what stands before them stays the same as the conversation grows.

    Raises:
        InputError: messages that are no conversation, a bad document, or nothing that could be compressed.
    """
    texts = to_documents(documents)
    messages = check_messages(said(messages, DEFAULT_SYSTEM if texts and place is None else None))
    if place is not None and (not isinstance(place, str) or not place):
        raise InputError(f"place={place!r} is no text that can stand in a message: give one, or None")
    if place is not None and not texts:
        messages = [dict(message) | {"content": message["content"].replace(place, "")} for message in messages]
    if texts:
        prompt = _around(builder, messages, texts, limits, place, documents_first)
        question = messages[-1]["content"].replace(place or PLACE, "").strip()
        return dataclasses.replace(prompt, question=question)
    longest = max(limits.whole, limits.max_chunk_len)
    if not _beyond(builder, messages, longest):
        prompt = builder.whole(messages)
        if len(prompt) <= longest:
            return prompt
    return _split(builder, messages, limits)


def _beyond(builder: PromptBuilder, messages: Sequence[Message], limit: int) -> bool:
    """Whether the user's messages alone are so much longer than a limit that nobody has to lay them out to know it.

    Each is tokenized by itself, which is kept, so that of a chat that grows only what is new is tokenized here. Of what
    others said, a template may leave something out.
    """
    texts = [message["content"].replace(TRUSTED, "").strip() for message in messages if message["role"] == "user"]
    most = limit + _MERGED * len(texts)
    return sum(map(len, texts)) > most and sum(map(len, builder.tokenize(*texts))) > most


def _around(
    builder: PromptBuilder,
    messages: list[Message],
    texts: tuple[Document, ...],
    limits: Limits,
    place: str | None,
    documents_first: bool,
) -> Prompt:
    """The prompt with documents; turns join them where prefix and suffix would be too long."""
    if documents_first and place is None:
        layout = _Layout(builder, messages, texts, PLACE, first=True)
    else:
        layout = _Layout(builder, messages if place else asking(messages, PLACE), texts, place or PLACE)
    prompt = layout.prompt(0)
    affix_len = len(prompt.prefix_ids) + len(prompt.suffix_ids)
    return layout.fitting(limits.affix) if len(prompt) > limits.whole and affix_len > limits.affix else prompt


def _split(builder: PromptBuilder, messages: list[Message], limits: Limits) -> Prompt:
    """The prompt of a conversation that is too long by itself: its oldest turns, or a long message, are the context."""
    *earlier, last = messages
    layout = _Layout(builder, [*earlier, dict(last) | {"content": f"{PLACE}{last['content']}"}], (), PLACE)
    if _beyond(builder, [last], limits.affix) or layout.affix_len(layout.cuts[-1]) > limits.affix:
        layout = _Layout(builder, *_split_longest(builder, messages, limits), PLACE)
    return layout.fitting(limits.affix)


def check_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages, if they are a conversation.

    Raises:
        InputError: no messages, an unknown role, content that is no string, or a last message that is not the
            user's or is empty.
    """
    several = isinstance(messages, Iterable) and not isinstance(messages, str | bytes | Mapping)
    messages = list(messages) if several else []
    if not messages:
        raise InputError("messages must be a list of at least one mapping with 'role' and 'content'")
    for number, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(role, str) or role not in _SPEAKERS:
            raise InputError(f"message {number} has no role among {', '.join(_SPEAKERS)}: give it one")
        if not isinstance(message.get("content"), str):
            raise InputError(f"message {number} has no string under 'content': give it one")
        unknown = sorted(map(repr, set(message) - {"role", "content", KEY}))
        if unknown:
            raise InputError(f"message {number} has a key {unknown[0]}: only 'role' and 'content' are read")
        if not (message.get(KEY) is None or (role == "assistant" and isinstance(message[KEY], str))):
            raise InputError(f"message {number} has {KEY!r} that is no string of an assistant's: leave it out")
    if messages[-1]["role"] != "user":
        raise InputError(f"the last message is the {messages[-1]['role']}'s: it must be the user's, who asks")
    if not messages[-1]["content"].strip():
        raise InputError("the last message is empty: the user must ask something")
    return [
        {name: replace_surrogates(message[name]) for name in ("role", "content", KEY) if message.get(name) is not None}
        for message in messages
    ]


class _Layout:
    """A conversation with a place for its documents, and the ways to shorten it.

    With `first`, the place is none yet in the messages: it is before the first question of those that stay.

    Attributes:
        cuts: how many messages may leave, none first; what is left begins with a user's.
    """

    def __init__(
        self,
        builder: PromptBuilder,
        messages: Sequence[Message],
        documents: tuple[Document, ...],
        place: str,
        first: bool = False,
    ) -> None:
        self._builder, self._messages, self._documents, self._place = builder, list(messages), documents, place
        self._first = first
        self._holder = next((n for n, m in enumerate(messages) if place in m["content"]), 0)
        systems = [message["role"] == "system" for message in messages]
        self._documents_lead = first or systems[self._holder]
        end = len(messages) - 1 if self._documents_lead else self._holder
        users = [n for n, message in enumerate(messages) if message["role"] == "user" and n <= end]
        opening = next(n for n, system in enumerate(systems) if not system)
        self.cuts = [0, *(n for n in users if n > opening)]

    def prompt(self, cut: int) -> Prompt:
        """The prompt in which the messages before number `cut`, the system's excepted, are a document."""
        left = [m for m in self._messages[:cut] if m["role"] != "system"]
        if not left:
            return self._builder.around(self._stay(cut), self._documents, self._place)
        text = "\n".join(f"{_SPEAKERS[message['role']]}: {message['content']}" for message in left)
        text = text.replace(TRUSTED, "")
        numbers = range(len(self._documents))
        order = [*numbers, len(numbers)] if self._documents_lead else [len(numbers), *numbers]  # as it came to pass
        documents = (*self._documents, Document(text, EARLIER_TITLE, keeps_place=True))
        return self._builder.around(self._stay(cut), documents, self._place, order)

    def affix_len(self, cut: int) -> int:
        """Tokens of prefix and suffix."""
        affix = self._builder.affix(self._stay(cut), self._place)
        return len(affix.prefix_ids) + len(affix.suffix_ids)

    def fitting(self, limit: int) -> Prompt:
        """The prompt with the fewest messages gone whose affix is within the limit, or with all gone that may be."""
        index = bisect.bisect_left(self.cuts[:-1], True, key=lambda cut: self.affix_len(cut) <= limit)
        return self.prompt(self.cuts[index])

    def _stay(self, cut: int) -> list[Message]:
        systems = [message for message in self._messages[:cut] if message["role"] == "system"]
        left = systems + self._messages[cut:]
        return asking(left, self._place, first=True) if self._first else left


def _split_longest(
    builder: PromptBuilder, messages: Sequence[Message], limits: Limits
) -> tuple[list[Message], tuple[Document, ...]]:
    """The messages with the middle of the longest that is no earlier turn cut out, and that middle."""
    last = len(messages) - 1  # which is never blank
    systems = [n for n, message in enumerate(messages[:-1]) if message["role"] == "system"]
    candidates = [*(n for n in systems if messages[n]["content"].strip()), last]
    tokenized = builder.tokenize(*(messages[number]["content"] for number in candidates))
    tokens = dict(zip(candidates, tokenized, strict=True))
    number = max(candidates, key=lambda n: len(tokens[n]))
    text = messages[number]["content"]
    start, end = split_text(text, tokens[number][:, 1].tolist(), limits.max_chunk_len)
    if not text[start:end].strip():
        raise InputError(
            f"{len(systems) + 1} system and user messages are longer together than half of "
            f"max_chunk_len={limits.max_chunk_len}, and none has a middle to compress: shorten them, or raise it"
        )
    changed = dict(messages[number]) | {"content": f"{text[:start]}{PLACE}{text[end:]}"}
    split = [*messages[:number], changed, *messages[number + 1 :]]
    return split, (Document(text[start:end], before="", after=""),)


def split_text(text: str, starts: Sequence[int], max_chunk_len: int) -> tuple[int, int]:
    """(start, end) of the middle of a text: all but its first and last lines.

    An eighth of a chunk of lines stays at either end. A last line stays whole up to a quarter of a chunk; of
    longer lines, an eighth of a chunk stays.

    Args:
        starts: where each token begins.
    """
    few, total = max(1, max_chunk_len // 8), len(starts)
    borders = [0, *itertools.accumulate(map(len, text.splitlines(keepends=True)))]
    tokens = {border: bisect.bisect_left(starts, border) for border in borders}
    start = max(border for border in borders if tokens[border] <= few)
    if start == 0 and total > few:
        start = text.rfind(" ", 0, starts[few]) + 1 or starts[few]
    solid = len(text.rstrip())
    behind = [border for border in borders if border < solid]
    end = min((border for border in behind if total - tokens[border] <= few), default=behind[-1])
    if total - tokens[end] > 2 * few:
        end = text.find(" ", starts[total - few]) + 1 or starts[total - few]
    return start, max(start, end)
