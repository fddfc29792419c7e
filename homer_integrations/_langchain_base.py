"""What ChatHomer and HomerLLM share: settings, token counts, and what they tell of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from pydantic import ConfigDict, SecretStr

from homer import Answer
from homer_integrations._settings import Call, HomerSettings

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # a misspelt setting is an error
STREAMING = ("stream", "run_manager")  # LangChain's own, which say how to call and not what
NO_TOOLS = "this model does not call tools yet: put what a tool gives into the messages or documents"
NO_SCHEMA = "this model does not hold to a schema yet: ask for the format in words, and parse with an output parser"


class HomerRunnable(HomerSettings):
    """What the chat model and the string model share."""

    # Arguments that LangChain gives every model. Nothing is sent anywhere, so there is no key and nothing to repeat.
    api_key: SecretStr | None = None
    max_retries: int | None = None

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

    def _named(self, arguments: Mapping[str, Any]) -> str:
        model = arguments.get("model")
        return self.model_name if model is None else str(getattr(model, "name", model))


def metadata_of(answer: Answer, name: str) -> dict[str, Any]:
    """Plain JSON values; `homer.show` draws what stands under "homer"."""
    facts = answer.to_dict()
    return {
        "model_name": name,
        "finish_reason": answer.finish_reason,
        "input_tokens": answer.usage.input_tokens,
        "kept_tokens": answer.usage.kept_tokens,
        "sources": facts["sources"],
        "homer": facts,
    }


def usage_of(answer: Answer) -> UsageMetadata:
    """Token counts as LangChain writes them; those of the input are before compression, cached ones included."""
    usage = answer.usage
    counts = UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
    )
    if usage.cached_tokens:
        counts["input_token_details"] = InputTokenDetails(cache_read=usage.cached_tokens)
    return counts
