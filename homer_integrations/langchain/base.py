"""What ChatHomer and HomerLLM share: settings, token counts, and what they tell of an answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from pydantic import ConfigDict, SecretStr

from homer import Answer
from homer_integrations.langchain.cache import KeyedCache
from homer_integrations.shared.documents import to_homer_documents
from homer_integrations.shared.facts import sources_of
from homer_integrations.shared.identity import NotPlainError, digest_of_documents
from homer_integrations.shared.settings import Call, HomerSettings
from homer_integrations.shared.tools import take_wanted

logger = logging.getLogger(__name__)

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # a misspelt setting is an error
STREAMING = ("stream", "run_manager")  # LangChain's own, which say how to call and not what
NO_TOOLS = "a model of strings calls no tools: use ChatHomer, whose messages hold calls and results"


class HomerRunnable(HomerSettings):
    """What the chat model and the string model share."""

    # Arguments that LangChain gives every model. Nothing is sent anywhere, so there is no key and nothing to repeat.
    api_key: SecretStr | None = None
    max_retries: int | None = None

    if TYPE_CHECKING:  # of LangChain's models
        cache: BaseCache | bool | None

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.settings()

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text, by the model's own tokenizer."""
        return self.load().tokenize(text)

    def _call(self, stop: list[str] | None, arguments: Mapping[str, Any]) -> Call:
        if arguments.get("tools") or arguments.get("functions"):
            raise NotImplementedError(NO_TOOLS)
        return self.call(stop, {name: value for name, value in arguments.items() if name not in STREAMING})

    def _key(self, stop: list[str] | None, arguments: Mapping[str, Any]) -> str:
        """What a cache of answers knows a call by, beside its prompt: all that changes the answer, nothing else.

        Raises:
            NotPlainError: a setting that nothing tells from another.
        """
        others = {name: value for name, value in arguments.items() if name not in ("documents", "place")}
        wanted = take_wanted(others)
        facts = (
            self._call(stop, others).identity()
            | wanted.facts()
            | {
                "type": type(self).__name__,
                "documents": digest_of_documents(to_homer_documents(arguments.get("documents"))),
                "place": arguments.get("place"),
                "output_version": getattr(self, "output_version", None),
            }
        )
        return json.dumps(facts, sort_keys=True)

    def _keyed(self, stop: list[str] | None, arguments: Mapping[str, Any]) -> Self:
        """The same model with a cache that goes by `_key`; itself where it has none."""
        cache = self.cache if isinstance(self.cache, BaseCache) else get_llm_cache()
        if self.cache is False or cache is None:
            return self
        try:
            return self.model_copy(update={"cache": KeyedCache(cache, self._key(stop, arguments))})
        except NotPlainError as error:
            logger.warning("%s: the cache of answers is left out", error)
            return self.model_copy(update={"cache": False})


def metadata_of(
    answer: Answer, name: str, trace: bool, called: bool = False, cited: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Plain JSON values, a few kB whatever was read; with the trace, what `homer.show` draws stands under "homer".

    Args:
        called: whether the answer calls a tool.
        cited: what `citations_of` tells; None where nobody asked.
    """
    facts = {
        "model_name": name,
        "finish_reason": "tool_calls" if called else answer.finish_reason,
        "input_tokens": answer.usage.input_tokens,
        "kept_tokens": answer.usage.kept_tokens,
    }
    told = {} if cited is None else {"citations": cited}
    return facts | sources_of(answer) | told | ({"homer": answer.to_dict()} if trace else {})


def usage_of(answer: Answer) -> UsageMetadata:
    """Token counts as LangChain writes them; those of the input are before compression, cached ones included."""
    usage = answer.usage
    counts = UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
    )
    if usage.reasoning_tokens:
        counts["output_token_details"] = OutputTokenDetails(reasoning=usage.reasoning_tokens)
    if usage.cached_tokens:
        counts["input_token_details"] = InputTokenDetails(cache_read=usage.cached_tokens)
    return counts
