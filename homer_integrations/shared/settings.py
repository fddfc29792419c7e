"""Settings that every wrapper takes, at construction and per call, and what a call makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from homer import (
    AnswerStream,
    Document,
    GenerationError,
    HomerConfig,
    HomerModel,
    InputError,
    Prompt,
    Sampling,
    StateStore,
)
from homer_integrations.shared.identity import identity_of, plain, shown
from homer_integrations.shared.loading import shared_model, shared_store
from homer_integrations.shared.tools import Wanted

_LOADING = (
    "calibration", "dtype", "device", "device_map", "devices", "gguf_file", "attn_implementation",
    "quantization_config", "rope_scaling",
)  # fmt: skip
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty")
_CONFIG = tuple(field.name for field in dataclasses.fields(HomerConfig))
_TOKEN_LIMITS = ("max_tokens", "max_new_tokens", "max_completion_tokens")
_TEMPLATE = "chat_template_kwargs"
_PER_CALL = ("model", *_TOKEN_LIMITS, *_SAMPLING, "stop", "timeout", "trace", "cite", _TEMPLATE, *_CONFIG)
_DRAWN = ("temperature", "top_p", "top_k", "min_p", "seed")  # of no account where the likeliest token is taken

_EMPTY = ("tools", "functions", "tool_choice", "function_call")  # which frameworks hand over where there are none


class LoadSettings(BaseModel):
    """The model, and how it is loaded. None leaves a setting to the model."""

    model: Any = Field(default="mini", description='A hub id, a folder, a file, "mini", or a loaded HomerModel.')
    calibration: Any = None
    dtype: Any = None
    device: Any = Field(default=None, description='"cpu", "cuda" or "mps", for all of the model.')
    device_map: Any = None
    devices: Any = Field(default=None, description='Several that read one context together: [0, 1], or "auto".')
    gguf_file: str | None = Field(default=None, description="Of a hub id or a folder, the file that holds the model.")
    attn_implementation: str | None = None
    quantization_config: Any = None
    rope_scaling: Any = Field(default=None, description="A factor for YaRN, or RoPE settings of transformers.")
    model_kwargs: dict[str, Any] = Field(default_factory=dict, description="More options of from_pretrained.")

    def _load(self, model: Any) -> HomerModel:
        given = {name: getattr(self, name) for name in _LOADING if getattr(self, name) is not None}
        return shared_model(model, given | self.model_kwargs)


class HomerSettings(LoadSettings):
    """The model, how it is loaded, how it compresses and how it generates. None leaves a setting to the model."""

    max_tokens: int | None = Field(default=None, description="Most new tokens; None: 256, 8192 of a model that thinks.")
    temperature: float | None = Field(default=None, description="0 or None is greedy.")
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    timeout: float | None = Field(default=None, description="Seconds for a whole answer.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Variables of the chat template, such as enable_thinking; those of a call go before."
    )

    window: int | None = Field(default=None, description="How much of the model's window is read at a time.")
    max_chunk_len: int | None = None
    target_len: int | None = None
    layers_warmup: int | None = None
    max_initial_chunk_len: int | None = None
    refresh_suffix: bool | None = None
    suffix_budget: int | None = None
    significance: Any = None
    chunk_batch_size: int | None = None

    reuse: Any = Field(
        default=None, description='Keep documents\' states for later calls: "memory", a folder, or a StateStore.'
    )
    trace: bool = Field(default=False, description="Tell all that `homer.show` draws, every document's text included.")
    cite: bool = Field(default=False, description="Tell for each sentence of an answer what it rests on.")

    @property
    def model_name(self) -> str:
        """The model's name as it was given."""
        return self.model.name if isinstance(self.model, HomerModel) else str(self.model)

    def named(self, arguments: Mapping[str, Any]) -> str:
        """The name of the model that a call with these arguments asks."""
        model = arguments.get("model")
        if model is None:
            return self.model_name
        return model.name if isinstance(model, HomerModel) else str(model)

    def load(self) -> HomerModel:
        """The model, loaded when first asked for and shared by all that name it with the same options."""
        return self._load(self.model)

    def settings(self) -> dict[str, Any]:
        """What was given, for those who read a trace; JSON values, and no model is loaded for it."""
        names = (*_LOADING, "model_kwargs", "max_tokens", *_SAMPLING, "stop", "timeout", _TEMPLATE, *_CONFIG, "reuse")
        values = {name: getattr(self, name) for name in names}
        empty = {name for name, value in values.items() if value is None or (name == "model_kwargs" and not value)}
        given = {name: shown(value) for name, value in values.items() if name not in empty}
        loaded = {"fingerprint": self.model.decoder.fingerprint} if isinstance(self.model, HomerModel) else {}
        return {"model": self.model_name} | loaded | given

    def call(self, stop: Sequence[str] | str | None, arguments: Mapping[str, Any]) -> Call:
        """What one call uses: the arguments of the call over the settings of construction.

        Raises:
            GenerationError: an argument nobody knows.
            ConfigError, UnsupportedModelError: as in HomerModel.from_pretrained and HomerConfig.
        """
        asked = {name for name, value in arguments.items() if value is not None and not (name in _EMPTY and not value)}
        unknown = sorted(asked - set(_PER_CALL))
        if unknown:
            raise GenerationError(f"unknown argument {unknown[0]!r}: a call takes {', '.join(_PER_CALL)} and documents")
        limits = [arguments[name] for name in _TOKEN_LIMITS if arguments.get(name) is not None]
        if len(set(limits)) > 1:
            raise GenerationError(f"max_tokens is given as {limits[0]} and as {limits[1]}: give it once")
        generation = self._chosen(_SAMPLING, arguments)
        stops = next((s for s in (stop, arguments.get("stop"), self.stop) if s is not None), None)
        model = self._load(arguments.get("model") or self.model)
        return Call(
            model=model,
            name=self.named(arguments),
            config=dataclasses.replace(model.config, **self._chosen(_CONFIG, arguments)),
            max_new_tokens=limits[0] if limits else self.max_tokens,
            timeout=arguments.get("timeout", self.timeout),
            generation=generation | ({"stop": stops} if stops else {}),
            store=shared_store(self.reuse),
            trace=self.traces(arguments),
            cite=self.cites(arguments),
            template=(self.chat_template_kwargs or {}) | as_mapping(_TEMPLATE, arguments.get(_TEMPLATE)),
        )

    def traces(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the answer to a call tells all that `homer.show` draws."""
        given = arguments.get("trace")
        return self.trace if given is None else bool(given)

    def cites(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the answer to a call says what each of its sentences rests on."""
        given = arguments.get("cite")
        return self.cite if given is None else bool(given)

    def _chosen(self, names: Sequence[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: arguments.get(name, getattr(self, name)) for name in names}
        return {name: value for name, value in found.items() if value is not None}


def as_mapping(name: str, given: Any) -> dict[str, Any]:
    """A mapping that may be missing, as a dict. Raises InputError on something else."""
    if not (given is None or isinstance(given, Mapping)):
        raise InputError(f"{name} is a {type(given).__name__}: give a mapping of names and values")
    return dict(given or {})


@dataclasses.dataclass(frozen=True)
class Call:
    """One call, all settings resolved."""

    model: HomerModel
    name: str
    config: HomerConfig
    max_new_tokens: int | None
    timeout: float | None
    generation: dict[str, Any]
    store: StateStore | None = None
    trace: bool = False
    cite: bool = False
    template: dict[str, Any] = dataclasses.field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """All that the answer to a prompt depends on, and what is told of it; JSON values, the same in every process.

        Of kept states, only that there are any: then leaves end with documents.

        Raises:
            NotPlainError: a significance of one's own, which nothing tells from another.
            GenerationError: a setting out of range.
        """
        sampling = Sampling(max_new_tokens=self.max_new_tokens, **self.generation)
        drawn = {name: getattr(sampling, name) for name in _DRAWN} if sampling.samples else {}
        return {
            "name": self.name,
            "model": identity_of(self.model),
            "config": {name: plain(getattr(self.config, name)) for name in _CONFIG},
            "max_new_tokens": sampling.max_new_tokens,
            "repetition_penalty": float(sampling.repetition_penalty),
            "stop": sorted(set(sampling.stops)),
            "sampling": plain(drawn),
            "reuse": self.store is not None,
            "trace": self.trace,
            "cite": self.cite,
            "template": plain(self.model.chat_template_kwargs | self.template),
        }

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        documents: Sequence[Document] = (),
        place: str | None = None,
        wanted: Wanted | None = None,
    ) -> AnswerStream:
        """The answer to a conversation; see HomerModel.build_chat_prompt, and HomerModel.turn for what is wanted."""
        kept: dict[str, Any] = {"cite": self.cite} | ({"store": self.store} if self.store else {})
        turn = (wanted or Wanted()).turn(self.model, messages)
        if turn.grammar is not None:
            kept["grammar"] = turn.grammar
        prompt = self.prompt(turn.messages, documents, place)
        return self.model.stream_prompt(prompt, **self._options, **kept, **self.generation).within(self.timeout)

    def prompt(
        self, messages: Sequence[Mapping[str, str]], documents: Sequence[Document] = (), place: str | None = None
    ) -> Prompt:
        """The prompt of a conversation; where states are kept, documents stand where they stay from turn to turn."""
        first: dict[str, Any] = {"documents_first": True} if self.store else {}
        return self.model.build_chat_prompt(
            messages, documents, place=place, chat_template_kwargs=self.template, **first, **self._options
        )

    @property
    def _options(self) -> dict[str, Any]:
        return {"config": self.config, "max_new_tokens": self.max_new_tokens}
