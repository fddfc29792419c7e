"""Requests as OpenAI's clients send them; what this server cannot do is refused, and nothing is silently ignored."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from homer_integrations.serve.asking import Asking
from homer_integrations.serve.choices import ChatLogprobs, CompletionLogprobs, SeveralChoices
from homer_integrations.serve.documents import to_conversation
from homer_integrations.serve.errors import Problem, ServeError
from homer_integrations.serve.jobs import Job
from homer_integrations.serve.lanes import Tick
from homer_integrations.serve.limits import check_count
from homer_integrations.serve.settings import ServeSettings
from homer_integrations.serve.tagged import with_tagged
from homer_integrations.serve.unknown import NO_MATTER, refuse_unknown
from homer_integrations.shared.tools import NAMES, take_wanted

_READ = frozenset(["role", "content"])
_OF_MESSAGES = _READ | NO_MATTER | {"name", "user"}
_OF_ROLES = {"assistant": {"tool_calls", "reasoning_content", "reasoning"}, "tool": {"tool_call_id"}}
_MOST_STOPS, _LONGEST_STOP = 16, 1000
# What may be given with these values only, since they ask for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "best_of": (1,), "presence_penalty": (0,), "frequency_penalty": (0,),
    "top_logprobs": (0,), "tool_choice": ("none", "auto"), "function_call": ("none", "auto"), "echo": (False,),
    "parallel_tool_calls": (True, False),
    "suffix": ("",), "response_format": ({"type": "text"},), "modalities": (["text"],),
}  # fmt: skip


class StreamOptions(BaseModel):
    """`stream_options` of a request."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool | None = None  # pads chunks against eavesdroppers; there is nothing to pad here


class GenerationRequest(Asking, SeveralChoices):
    """What both endpoints take. Beside OpenAI's own: documents, top_k, min_p, repetition_penalty, timeout."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, description="Most new tokens.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0, the default, is greedy.")
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = Field(default=None, description="Texts that end the answer.")
    documents: list[Any] | None = Field(
        default=None, description='Texts, {"title", "text"}, or {"id", "data"}: what to answer from.'
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Variables of the chat template, such as enable_thinking."
    )
    reasoning_effort: str | None = Field(
        default=None, max_length=100, description='Where the chat template knows it; "none" also where it can only be '
        "told not to think.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _refuse_the_unknown(self) -> GenerationRequest:
        refuse_unknown(self.model_extra, _NOTHING)
        return self

    @model_validator(mode="after")
    def _check_stops(self) -> GenerationRequest:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        longest = max(map(len, stops), default=0)
        if len(stops) > _MOST_STOPS or longest > _LONGEST_STOP:
            raise ValueError(
                f"stop holds {len(stops)} strings of up to {longest} characters, and this server takes {_MOST_STOPS} "
                f"of {_LONGEST_STOP}: give fewer or shorter ones"
            )
        return self

    @property
    def has_files(self) -> bool:
        """Whether files have to be read, which takes a while."""
        return False

    def jobs(self, settings: ServeSettings, client: str = "", tick: Tick = lambda: None) -> list[Job]:
        """The answers asked for, by whom: `user` says it better than an address.

        Args:
            tick: called now and then where files are read; what it raises ends the work.

        Raises:
            InputError: messages or documents that cannot be read.
            ServeError: more of them than this server takes.
        """
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """The arguments of `HomerSettings.call` among the fields."""
        names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        template = {"chat_template_kwargs": (self.chat_template_kwargs or {}) | effort}
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return given | (template if template["chat_template_kwargs"] else {})

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(ChatLogprobs, GenerationRequest):
    """The body of /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(
        min_length=1, description="Each with role and content, a text or parts of type text and file."
    )
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: list[dict[str, Any]] | None = Field(default=None, description="Functions that the answer may call.")
    tool_choice: Any = Field(default=None, description='"auto", "none", "required", or one function.')
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = Field(
        default=None, description='Of type "text", "json_object", or "json_schema" with the schema.'
    )
    cite: bool | None = Field(default=None, description="Whether the message has annotations: what it rests on.")

    @model_validator(mode="after")
    def _check_messages(self) -> ChatRequest:
        for number, message in enumerate(self.messages, 1):
            known = _OF_MESSAGES | _OF_ROLES.get(str(message.get("role")), set())
            extra = {name for name in message if message[name] not in (None, [], {})} - known
            if extra:
                raise ValueError(
                    f"message {number} has a key {min(extra)!r:.80}: only 'role' and 'content' are read; leave it out"
                )
            content = message.get("content")
            if not isinstance(message.get("role"), str):
                raise ValueError(f"message {number} has no 'role': give it one")
            silent = content is None and message["role"] == "assistant"
            if not (silent or isinstance(content, str) or _is_parts(content)):
                raise ValueError(f"message {number} has no 'content': give a string, or a list of parts")
        return self

    @property
    def has_files(self) -> bool:
        """Whether files have to be read, which takes a while."""
        contents = (message.get("content") for message in self.messages)
        return any(part.get("type") == "file" for parts in contents if isinstance(parts, list) for part in parts)

    def jobs(self, settings: ServeSettings, client: str = "", tick: Tick = lambda: None) -> list[Job]:
        """The one prompt to answer."""
        check_count("messages", len(self.messages), settings.max_messages)
        check_count("documents", len(self.documents or ()), settings.max_documents)
        messages, documents = to_conversation(self.messages, self.documents or (), tick)
        messages, documents, place = with_tagged(messages, documents)
        check_count("documents", len(documents), settings.max_documents)
        limit = {"max_completion_tokens": self.max_completion_tokens} if self.max_completion_tokens else {}
        wanted = take_wanted({name: getattr(self, name) for name in NAMES})
        cited = {} if self.cite is None else {"cite": self.cite}
        options, seconds = self.options() | limit | cited, self.seconds(settings)
        several: dict[str, Any] = {"n": self.choices, "logprobs": self.alternatives}
        return [Job(messages, documents, options, seconds, self.asker(client), wanted, place, **several)]


class CompletionRequest(CompletionLogprobs, GenerationRequest):
    """The body of /v1/completions; a prompt is one message of a user, by the model's own chat template."""

    prompt: str | list[str] = Field(description="A text, or several for an answer each.")

    @model_validator(mode="after")
    def _check_prompt(self) -> CompletionRequest:
        if not self.prompt:
            raise ValueError("prompt is empty: give a string, or a list of strings")
        return self

    def jobs(self, settings: ServeSettings, client: str = "", tick: Tick = lambda: None) -> list[Job]:
        """A job for every prompt."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        check_count("prompts", len(prompts), settings.max_prompts)
        check_count("documents", len(self.documents or ()), settings.max_documents)
        _, documents = to_conversation([], self.documents or ())
        given = documents, self.options(), self.seconds(settings), self.asker(client)
        several: dict[str, Any] = {"n": self.choices, "logprobs": self.alternatives}
        return [Job(({"role": "user", "content": text},), *given, **several) for text in prompts]


Request = TypeVar("Request", bound=BaseModel)


def parse(kind: type[Request], body: bytes) -> Request:
    """The request in a body.

    Raises:
        ServeError: status 400; names the field and what is wrong with it.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(str(step) for step in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ServeError(Problem(400, f"{path}: {message}" if path else message, param=path or None)) from None


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(part, dict) for part in content)
