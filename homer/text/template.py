"""ChatTemplate: messages -> what stands around and between their texts, by the tokenizer's own chat template."""

from __future__ import annotations

import functools
import itertools
import operator
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from homer.errors import InputError
from homer.text.tokenizing import Piece, template_markers

Message = Mapping[str, str]

TRUSTED = f"homer-{secrets.token_hex(16)}"  # around marks of ours in a message; no text from outside can hold it
_MARK = "HOMERTEXT{}END"
_MARKED = re.compile(r"HOMERTEXT(\d+)END")
_ROLES_NAMED = 8
_ENDINGS = {"system": "\n\n", "user": "\n", "assistant": "\n\n"}


class ChatTemplate:
    """Lays out messages; only the template's own text is trusted to hold control tokens.

    A template that knows no system role gets the system message at the head of the next user message, and one
    that wants user and assistant by turns gets neighbours of one role as one message. A tokenizer without a
    template gets plain questions and answers.

    Args:
        tokenizer: a tokenizer of transformers.
        options: variables of the template, such as enable_thinking.

    Raises:
        InputError: a template that leaves out the user's message.
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, Any] | None = None) -> None:
        self._tokenizer, self._options = tokenizer, dict(options or {})
        self.plain = not tokenizer.chat_template

    def lay_out(self, messages: Sequence[Message]) -> list[Piece]:
        """The conversation and the opening of the answer, as pieces of one text.

        Raises:
            InputError: the template refuses the messages, or leaves one of them out.
        """
        if self.plain:
            return list(_plain_pieces(messages))
        problem = ""
        for form in (list, _without_system, _joined, lambda given: _joined(_without_system(given))):
            arranged = form(messages)
            try:
                literals = self._literals([message["role"] for message in arranged])
            except InputError as error:
                problem = problem or str(error)
            else:
                return list(self._pieces(literals, arranged))
        raise InputError(problem)

    def markers(self) -> set[str]:
        """Bracketed words, such as `[/INST]`, in the template's text around a conversation."""
        if self.plain:
            return set()
        one_turn = [{"role": role, "content": "a"} for role in ("system", "user")]
        two_turns = [*one_turn, {"role": "assistant", "content": "a"}, one_turn[1]]
        try:
            pieces = self.lay_out(two_turns)
        except InputError:  # a template for one turn only
            pieces = self.lay_out(one_turn)
        return template_markers(piece.text for piece in pieces if piece.trusted)

    @functools.cached_property
    def _strips(self) -> bool:
        """Whether the template strips white space off the messages."""
        roles, padded = ["user"], f" {_MARK} "
        return self._render(roles, padded) == self._render(roles, _MARK)

    def _pieces(self, literals: list[str], messages: Sequence[Message]) -> Iterator[Piece]:
        for literal, message in zip(literals, messages, strict=False):
            yield Piece(literal, True)
            content = message["content"].strip() if self._strips else message["content"]
            yield from (Piece(part, n % 2 == 1) for n, part in enumerate(content.split(TRUSTED)))
        yield Piece(literals[-1], True)

    def _literals(self, roles: list[str]) -> list[str]:
        """The template's text before, between and after messages of these roles."""
        parts = _MARKED.split(self._render(roles, _MARK))
        literals, numbers, expected = parts[::2], parts[1::2], [str(n) for n in range(len(roles))]
        if numbers != expected:
            same = [a == b for a, b in zip(numbers, expected, strict=False)]
            wrong = min([*same, False].index(False), len(roles) - 1)
            raise InputError(
                f"the chat template leaves out the {roles[wrong]}'s message, or repeats it: give the tokenizer another "
                f"chat_template"
            )
        return literals

    def _render(self, roles: list[str], mark: str) -> str:
        messages = [{"role": role, "content": mark.format(number)} for number, role in enumerate(roles)]
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self._options
            )
        except Exception as error:  # templates raise errors of their own on roles they do not know
            named = [*roles[:_ROLES_NAMED], "..."] if len(roles) > _ROLES_NAMED else roles
            raise InputError(f"the chat template refuses the roles {', '.join(named)}: {error}") from error
        return text


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
    return [
        {"role": role, "content": "\n\n".join(message["content"] for message in group)}
        for role, group in itertools.groupby(messages, key=operator.itemgetter("role"))
    ]
