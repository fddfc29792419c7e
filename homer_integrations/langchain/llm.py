"""HomerLLM: LangChain's model of strings."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM
from langchain_core.messages import HumanMessage
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable

from homer import Answer, AnswerStream, Thought
from homer_integrations.langchain.base import STRICT, HomerRunnable, metadata_of, usage_of
from homer_integrations.shared.citing import citations_of
from homer_integrations.shared.conversation import REASONING, to_conversation
from homer_integrations.shared.documents import to_homer_documents
from homer_integrations.shared.marks import KEY, MarkedText
from homer_integrations.shared.threads import answer_in_thread, stream_in_thread

_OF_THE_RUN = ("callbacks", "tags", "metadata", "run_name", "run_id")


class HomerLLM(HomerRunnable, BaseLLM):
    """The same as a model of strings: a prompt is one message of a user, by the model's own chat template.

    Documents are given as `documents=` of a call or of `.bind`; `generation_info` holds what ChatHomer's
    response_metadata holds, and usage.
    """

    model_config = STRICT

    @property
    def _llm_type(self) -> str:
        return "homer"

    def generate(self, prompts: list[str], stop: list[str] | None = None, *args: Any, **kwargs: Any) -> LLMResult:
        """As LangChain's; a cache of answers tells documents and settings apart."""
        kwargs = _read(kwargs)
        keyed = self._keyed(stop, _of_the_call(kwargs))
        return BaseLLM.generate(keyed, prompts, stop, *args, **kwargs)

    async def agenerate(
        self, prompts: list[str], stop: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> LLMResult:
        """As `generate`; the event loop goes on meanwhile."""
        kwargs = _read(kwargs)
        keyed = self._keyed(stop, _of_the_call(kwargs))
        return await BaseLLM.agenerate(keyed, prompts, stop, *args, **kwargs)

    def batch(self, inputs: list[Any], config: Any = None, **kwargs: Any) -> list[str]:
        """An answer to every input, each by itself: with return_exceptions=True, one that fails costs no other."""
        return Runnable.batch(self, inputs, config, **kwargs)

    async def abatch(self, inputs: list[Any], config: Any = None, **kwargs: Any) -> list[str]:
        """As `batch`; the event loop goes on meanwhile."""
        return await Runnable.abatch(self, inputs, config, **kwargs)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        return self._result([self._open(prompt, stop, kwargs).answer() for prompt in prompts], kwargs)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        opened = (functools.partial(self._open, prompt, stop, kwargs) for prompt in prompts)
        return self._result(await asyncio.gather(*map(answer_in_thread, opened)), kwargs)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        stream = self._open(prompt, stop, kwargs)
        for piece in stream:
            chunk = GenerationChunk(text=piece)
            if run_manager is not None:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield GenerationChunk(text="", generation_info=self._info(stream.answer(), kwargs))

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        items = stream_in_thread(functools.partial(self._open, prompt, stop, kwargs))
        async with contextlib.aclosing(items):
            async for item in items:
                if isinstance(item, Answer):
                    yield GenerationChunk(text="", generation_info=self._info(item, kwargs))
                    return
                if isinstance(item, Thought):
                    continue
                chunk = GenerationChunk(text=item)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(item, chunk=chunk)
                yield chunk

    def _open(self, prompt: str, stop: list[str] | None, arguments: Mapping[str, Any]) -> AnswerStream:
        arguments = dict(arguments)
        mark = prompt.mark if isinstance(prompt, MarkedText) else None
        message = HumanMessage(str(prompt), additional_kwargs={KEY: mark} if mark else {})
        asked = to_conversation([message], arguments.pop("documents", None), arguments.pop("place", None))
        return self._call(stop, arguments).stream(asked.messages, asked.documents, asked.place)

    def _info(self, answer: Answer, arguments: Mapping[str, Any]) -> dict[str, Any]:
        cited = citations_of(answer) if self.cites(arguments) else None
        facts = metadata_of(answer, self.named(arguments), self.traces(arguments), cited=cited)
        thought = {REASONING: answer.reasoning} if answer.reasoning else {}
        return facts | {"usage": dict(usage_of(answer))} | thought

    def _result(self, answers: Sequence[Answer], arguments: Mapping[str, Any]) -> LLMResult:
        generations = [[Generation(text=a.text, generation_info=self._info(a, arguments))] for a in answers]
        prompt, completion = (
            sum(getattr(a.usage, name) for a in answers) for name in ("input_tokens", "output_tokens")
        )
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return LLMResult(
            generations=generations, llm_output={"model_name": self.named(arguments), "token_usage": usage}
        )


def _read(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same with documents as homer's: they are read for the key and for the answer, and an iterator only once."""
    documents = to_homer_documents(arguments.get("documents"))
    return arguments | ({"documents": documents} if documents else {})


def _of_the_call(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What is said to the model; not what is said of the run."""
    return {name: value for name, value in arguments.items() if name not in _OF_THE_RUN}
