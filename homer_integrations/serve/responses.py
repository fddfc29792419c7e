"""Answers in the shape that OpenAI's clients read, whole and in chunks; `homer` is this library's own addition."""

from __future__ import annotations

import dataclasses
import time
import uuid
from typing import Any

from homer import Answer, Source
from homer_integrations.serve.jobs import Finished


class Shape:
    """One response of one endpoint: its id and its time are the same in every chunk.

    Args:
        chat: of /v1/chat/completions, else of /v1/completions.
        model: the name clients know.
    """

    def __init__(self, chat: bool, model: str) -> None:
        self._chat = chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, results: list[Finished]) -> dict[str, Any]:
        """The response that is not streamed."""
        choices = []
        for index, result in enumerate(results):
            text = result.answer.text
            said = (
                {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
            )
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": _reason(result.answer)})
        kind = "chat.completion" if self._chat else "text_completion"
        facts = [compression(result) for result in results]
        homer = facts[0] if len(facts) == 1 else {"choices": facts}
        return self._head | {"object": kind, "choices": choices, "usage": usage(results), "homer": homer}

    def first(self) -> dict[str, Any] | None:
        """The chunk before any text, where there is one."""
        return self._chunk(0, {"role": "assistant", "content": ""}, None) if self._chat else None

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """A chunk with text."""
        return self._chunk(index, {"content": text} if self._chat else text, None)

    def last(self, index: int, result: Finished) -> dict[str, Any]:
        """The chunk that says how a choice ended."""
        return self._chunk(index, {} if self._chat else "", _reason(result.answer)) | {"homer": compression(result)}

    def counts(self, results: list[Finished]) -> dict[str, Any]:
        """The chunk of usage, without choices."""
        return self._frame([]) | {"usage": usage(results)}

    def _chunk(self, index: int, content: Any, reason: str | None) -> dict[str, Any]:
        name = "delta" if self._chat else "text"
        return self._frame([{"index": index, name: content, "logprobs": None, "finish_reason": reason}])

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk" if self._chat else "text_completion", "choices": choices}


def usage(results: list[Finished]) -> dict[str, Any]:
    """Token counts; those of the prompt are before compression."""
    prompt = sum(result.answer.usage.input_tokens for result in results)
    completion = sum(result.answer.usage.output_tokens for result in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(result.cached_tokens for result in results)},
    }


def compression(result: Finished) -> dict[str, Any]:
    """What survived of the prompt and of every document; passages by their characters, since clients have the text."""
    answer = result.answer
    return {
        "input_tokens": answer.usage.input_tokens,
        "kept_tokens": answer.usage.kept_tokens,
        "sources": [_source(source) for source in answer.sources],
    }


def model_list(name: str, limit: int, since: int) -> dict[str, Any]:
    """The response of /v1/models."""
    return {"object": "list", "data": [model_card(name, limit, since)]}


def model_card(name: str, limit: int, since: int) -> dict[str, Any]:
    """One model; `max_model_len` is the longest prompt that the server takes, as other servers call it."""
    return {"id": name, "object": "model", "created": since, "owned_by": "homer", "max_model_len": limit}


def _source(source: Source) -> dict[str, Any]:
    passages = [
        {name: getattr(passage, name) for name in ("start", "end", "tokens", "kept", "relevance")}
        for passage in source.passages
    ]
    return dataclasses.asdict(dataclasses.replace(source, passages=())) | {"passages": passages}


def _reason(answer: Answer) -> str:
    return "length" if answer.finish_reason == "length" else "stop"
