"""ChatTemplate: messages -> what stands around and between their texts, by the tokenizer's own chat template."""

from __future__ import annotations

import functools
import itertools
import operator
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from homer.errors import InputError
from homer.text.thinking import KEY, Thinking, as_options, find_thinking
from homer.text.tokenizing import Piece, template_markers

Message = Mapping[str, str]

TRUSTED = f"homer-{secrets.token_hex(16)}"  # around marks of ours in a message; no text from outside can hold it
_MARK, _THOUGHT = "HOMERTEXT{}END", "HOMERTHINKS{}END"
_MARKED = re.compile(r"HOMER(TEXT|THINKS)(\d+)END")
RESULT = "<tool_response>\n", "\n</tool_response>"  # around what tools gave
_ROLES_NAMED = 8
_ENDINGS = {"system": "\n\n", "user": "\n", "assistant": "\n\n"}


class ChatTemplate:
    """Lays out messages; only the template's own text is trusted to hold control tokens.

    A template that knows no system role gets the system message at the head of the next user message, and one
    that wants user and assistant by turns gets neighbours of one role as one message. A tokenizer without a
    template gets plain questions and answers. What was thought before an earlier answer is given to a template that
    reads it, which repeats it or not; to others it is not.

    Args:
        tokenizer: a tokenizer of transformers.
        options: variables of the template, such as enable_thinking.

    Raises:
        InputError: a template that leaves out the user's message, or options that it does not read.
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, Any] | None = None) -> None:
        self._tokenizer, self._options = tokenizer, as_options(tokenizer, options)
        self.plain = not tokenizer.chat_template

    @functools.cached_property
    def thinking(self) -> Thinking | None:
        """How the model marks its thoughts; None where nothing tells of any."""
        return find_thinking(self._tokenizer, self._options)

    def lay_out(self, messages: Sequence[Message]) -> list[Piece]:
        """The conversation and the opening of the answer, as pieces of one text.

        Raises:
            InputError: the template refuses the messages, or leaves one of them out.
        """
        if self.plain:
            return list(_plain_pieces(messages))
        problem = ""
        for form in (list, _without_system, _joined, lambda given: _joined(_without_system(given))):
            arranged = [self._apart(message) for message in form(messages)]
            try:
                return list(self._pieces(arranged))
            except InputError as error:
                problem = problem or str(error)
        raise InputError(problem)

    def markers(self) -> set[str]:
        """Bracketed words, such as `[/INST]`, in the template's text around a conversation, and marks of thoughts."""
        if self.plain:
            return set()
        one_turn = [{"role": role, "content": "a"} for role in ("system", "user")]
        two_turns = [*one_turn, {"role": "assistant", "content": "a"}, one_turn[1]]
        try:
            pieces = self.lay_out(two_turns)
        except InputError:  # a template for one turn only
            pieces = self.lay_out(one_turn)
        thoughts = {self.thinking.begin, self.thinking.end} if self.thinking else set()
        return template_markers(piece.text for piece in pieces if piece.trusted) | thoughts

    @functools.cached_property
    def _strips(self) -> bool:
        """Whether the template strips white space off the messages."""
        return self._render([_probe(f" {_MARK} ")]) == self._render([_probe(_MARK)])

    def _apart(self, message: Message) -> Message:
        """An assistant's message with its thought by itself, if the model marks thoughts."""
        if message["role"] != "assistant" or self.thinking is None:
            return message
        thought, answer = self.thinking.split(message["content"])
        return {"role": "assistant", "content": answer, KEY: message.get(KEY) or thought}

    def _pieces(self, messages: Sequence[Message]) -> Iterator[Piece]:
        """The template's own text, and that of messages between it."""
        key = self.thinking.key if self.thinking else None
        shapes = [_Shape.of(message, key) for message in messages]
        text = self._render([shape.message(number, key) for number, shape in enumerate(shapes)])
        literals, kinds, numbers = (_MARKED.split(text)[start::3] for start in range(3))
        found = [int(number) for number, kind in zip(numbers, kinds, strict=True) if kind == "TEXT"]
        if found != list(range(len(messages))):
            raise InputError(_left_out(found, messages))
        after = ""
        for literal, kind, number in zip(literals, kinds, map(int, numbers), strict=False):
            shape = shapes[number]
            before, behind = shape.around if kind == "TEXT" else ("", "")
            yield Piece(literal.removeprefix(after).removesuffix(before), True)
            content = f"{before}{shape.content}{behind}" if kind == "TEXT" else shape.thought
            content = content.strip() if self._strips else content
            yield from (Piece(part, n % 2 == 1) for n, part in enumerate(content.split(TRUSTED)))
            after = behind
        yield Piece(literals[-1].removeprefix(after), True)

    def _render(self, messages: Sequence[Message]) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True, **self._options
            )
        except Exception as error:  # templates raise errors of their own on roles they do not know
            roles = [message["role"] for message in messages]
            named = [*roles[:_ROLES_NAMED], "..."] if len(roles) > _ROLES_NAMED else roles
            raise InputError(f"the chat template refuses the roles {', '.join(named)}: {error}") from error
        return text


class _Shape(NamedTuple):
    """What a template is to know of a message, which it sees with marks in place of texts.

    Of a user's, whether it holds what a tool gave: a thought before it belongs to the same turn as one behind it.
    """

    role: str
    content: str
    thought: str
    around: tuple[str, str]

    @classmethod
    def of(cls, message: Message, key: str | None) -> _Shape:
        content, (before, after) = message["content"], RESULT
        if key is None or message["role"] != "user" or not (content.startswith(before) and content.endswith(after)):
            return cls(message["role"], content, message.get(KEY, "") if key else "", ("", ""))
        return cls("user", content[len(before) : max(len(before), len(content) - len(after))], "", RESULT)

    def message(self, number: int, key: str | None) -> Message:
        before, after = self.around
        thought = {key: _THOUGHT.format(number)} if key and self.thought else {}
        return {"role": self.role, "content": f"{before}{_MARK.format(number)}{after}"} | thought


def _probe(text: str) -> Message:
    return {"role": "user", "content": text.format(0)}


def _left_out(found: list[int], messages: Sequence[Message]) -> str:
    same = [a == b for a, b in enumerate(found)]
    wrong = min([*same, False].index(False), len(messages) - 1)
    return (
        f"the chat template leaves out the {messages[wrong]['role']}'s message, or repeats it: give the tokenizer "
        f"another chat_template"
    )


def _plain_pieces(messages: Sequence[Message]) -> Iterator[Piece]:
    """Plain text for base models: the system's words, then questions and answers."""
    openings = {"user": "Question: ", "assistant": "Answer: "}
    *earlier, last = messages
    for message in earlier:
        words = message["content"].replace(TRUSTED, "")
        yield Piece(openings.get(message["role"], "") + words + _ENDINGS[message["role"]])
    turns = any(message["role"] == "user" for message in earlier)
    yield Piece(openings["user"] if turns and openings["user"] not in last["content"] else "", True)
    yield Piece(last["content"])
    yield Piece("" if last["content"].rstrip().endswith(":") else "\nAnswer:", True)


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """System messages at the head of the next user message."""
    arranged: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            arranged.append({"role": "user", "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            arranged.append(message)
    return arranged


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message."""
    groups = [list(group) for _, group in itertools.groupby(messages, key=operator.itemgetter("role"))]
    return [
        group[0] if len(group) == 1
        else {"role": group[0]["role"], "content": "\n\n".join(message["content"] for message in group)}
        for group in groups
    ]  # fmt: skip
