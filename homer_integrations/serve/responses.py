"""Answers in the shape that OpenAI's clients read, whole and in chunks; `homer` is this library's own addition."""

from __future__ import annotations

import collections
import dataclasses
import time
import uuid
from collections.abc import Iterator
from typing import Any

from homer import Answer, Call, CallPiece, CallReader, Source, Thought, read_calls
from homer_integrations.serve.choices import Telling
from homer_integrations.serve.citing import annotations_of
from homer_integrations.serve.jobs import Finished
from homer_integrations.shared.conversation import REASONING
from homer_integrations.shared.tools import new_call_id


class Shape:
    """One response of one endpoint: its id and its time are the same in every chunk.

    Args:
        chat: of /v1/chat/completions, else of /v1/completions.
        model: the name clients know.
        reads_calls: whether calls of tools are read out of the text.
    """

    def __init__(self, chat: bool, model: str, reads_calls: bool = False) -> None:
        self._chat, self._reads_calls = chat, reads_calls
        self._readers: dict[int, CallReader] = {}
        self._telling: collections.defaultdict[int, Telling] = collections.defaultdict(lambda: Telling(chat))
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, results: list[Finished]) -> dict[str, Any]:
        """The response that is not streamed."""
        choices = []
        for index, result in enumerate(results):
            text, calls = read_calls(result.answer.text) if self._reads_calls else (result.answer.text, [])
            called = {"tool_calls": [_call(call) for call in calls]} if calls else {}
            message = {"role": "assistant", "content": None if calls and not text else text, "refusal": None} | called
            message |= annotations_of(result, text)
            message |= {REASONING: result.answer.reasoning} if result.answer.reasoning else {}
            said = {"message": message} if self._chat else {"text": text}
            reason = _reason(result.answer, bool(calls))
            logprobs = Telling(self._chat).of(result.answer.logprobs)
            choices.append({"index": index, **said, "logprobs": logprobs, "finish_reason": reason})
        kind = "chat.completion" if self._chat else "text_completion"
        facts = [compression(result) for result in results]
        homer = facts[0] if len(facts) == 1 else {"choices": facts}
        return self._head | {"object": kind, "choices": choices, "usage": usage(results), "homer": homer}

    def first(self, index: int = 0) -> dict[str, Any] | None:
        """The chunk before any text of a choice, where there is one."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None) if self._chat else None

    def pieces(self, index: int, text: str) -> Iterator[dict[str, Any]]:
        """Chunks with text, with what is read of calls, and with thoughts, of which completions tell nothing."""
        if isinstance(text, Thought):
            yield from [self._chunk(index, {REASONING: str(text)}, None)] if self._chat else []
            return
        self._telling[index].untold.note(text)
        parts = self._readers.setdefault(index, CallReader()).feed(text) if self._reads_calls else iter([text])
        yield from (self._part(index, part) for part in parts)

    def last(self, index: int, result: Finished) -> Iterator[dict[str, Any]]:
        """The chunk that says how a choice ended, and before it words that were held back."""
        reader = self._readers.get(index, CallReader())
        yield from (self._part(index, part) for part in reader.flush())
        reason = _reason(result.answer, bool(reader.calls))
        self._telling[index].untold.rest(result.answer)
        words = read_calls(result.answer.text)[0] if self._reads_calls else result.answer.text
        delta = annotations_of(result, words) if self._chat else ""
        yield self._chunk(index, delta, reason) | {"homer": compression(result)}

    def _part(self, index: int, part: str | CallPiece) -> dict[str, Any]:
        if isinstance(part, str):
            return self._chunk(index, {"content": part} if self._chat else part, None)
        function = {"arguments": part.arguments} | ({"name": part.name} if part.name is not None else {})
        head = {"id": new_call_id(), "type": "function"} if part.name is not None else {}
        return self._chunk(index, {"tool_calls": [{"index": part.index, **head, "function": function}]}, None)

    def counts(self, results: list[Finished]) -> dict[str, Any]:
        """The chunk of usage, without choices."""
        return self._frame([]) | {"usage": usage(results)}

    def _chunk(self, index: int, content: Any, reason: str | None) -> dict[str, Any]:
        name = "delta" if self._chat else "text"
        logprobs = self._telling[index].next()
        return self._frame([{"index": index, name: content, "logprobs": logprobs, "finish_reason": reason}])

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk" if self._chat else "text_completion", "choices": choices}


def usage(results: list[Finished]) -> dict[str, Any]:
    """Token counts; those of the prompt are before compression, and once for all answers to it."""
    prompts = [result for result in results if result.choice == 0]
    prompt = sum(result.answer.usage.input_tokens for result in prompts)
    completion = sum(result.answer.usage.output_tokens for result in results)
    thought = sum(result.answer.usage.reasoning_tokens for result in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(result.cached_tokens for result in prompts)},
    } | ({"completion_tokens_details": {"reasoning_tokens": thought}} if thought else {})


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


def _call(call: Call) -> dict[str, Any]:
    return {"id": new_call_id(), "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _reason(answer: Answer, called: bool) -> str:
    if called and answer.finish_reason == "stop":
        return "tool_calls"
    return "length" if answer.finish_reason == "length" else "stop"
