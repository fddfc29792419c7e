"""The methods that the paper compares, by one interface: plain, yarn, homer, homer-yarn."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homer.backends.source import locate
from homer.config import HomerConfig
from homer.errors import ConfigError
from homer.model import HomerModel
from homer.significance.calibration import Calibration

METHODS = ("plain", "yarn", "homer", "homer-yarn")
DEFAULT_METHODS = ("plain", "homer")
FilePath = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Setup:
    """What an experiment runs on.

    Attributes:
        model: a hub id, a folder or "mini"; or a loaded HomerModel, for methods without YaRN.
        methods: of "plain", "yarn", "homer" and "homer-yarn".
        scale: YaRN's factor.
        settings: fields of HomerConfig in which the HOMER methods differ from the model's own configuration.
        calibration: a file for every HOMER method, or for each its own: {"homer-yarn": file}. None keeps what lies
            beside the model; the word "none" leaves even that away.
        device: where to run, such as "cuda"; "auto" spreads over all GPUs. None: the CPU, or the first GPU.
        dtype: such as "float16". None: as the weights were saved.
        seed: of all that is drawn at random.

    Raises:
        ConfigError: an unknown method, a scale below 1, an unknown or bad setting, or YaRN for a loaded model.
    """

    model: FilePath | HomerModel = "mini"
    methods: tuple[str, ...] = DEFAULT_METHODS
    scale: float = 2.0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    calibration: FilePath | Calibration | Mapping[str, Any] | None = None
    device: str | None = None
    dtype: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", tuple(dict.fromkeys(self.methods)))
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            raise ConfigError(f"unknown method {(unknown or [''])[0]!r}: the methods are {', '.join(METHODS)}")
        if self.scale < 1:
            raise ConfigError(f"scale={self.scale} would shrink the window: give a factor of at least 1")
        if isinstance(self.model, HomerModel) and any("yarn" in name for name in self.methods):
            raise ConfigError("YaRN changes how a model is loaded: give the model's name or folder, not a loaded model")
        HomerConfig.from_dict(self.settings)

    def to_dict(self) -> dict[str, Any]:
        """The setup as plain JSON values."""
        name = self.model.name if isinstance(self.model, HomerModel) else str(self.model)
        calibration = self.calibration if isinstance(self.calibration, Mapping) else {"homer": self.calibration}
        files = {name: None if file is None else _label(file) for name, file in calibration.items()}
        shown = {"methods": list(self.methods), "scale": self.scale, "settings": dict(self.settings)}
        return {"model": Path(name).name if name.startswith("/") else name, **shown, "calibration": files} | {
            "device": self.device, "dtype": self.dtype, "seed": self.seed,
        }  # fmt: skip

    def tokenizer(self) -> Any:
        """The model's tokenizer, without loading the model. Raises InputError where there is none."""
        if isinstance(self.model, HomerModel):
            return self.model.require_tokenizer("run experiments on text")
        return locate(self.model, {}).read_tokenizer()

    def window(self) -> int:
        """The model's own window in tokens, YaRN left out."""
        if isinstance(self.model, HomerModel):
            return self.model.window
        config: Any = locate(self.model, {}).read_config({})[0].get_text_config()
        return int(config.max_position_embeddings)


@dataclasses.dataclass(frozen=True)
class Method:
    """One method, ready to run: a model, and whether contexts are compressed for it."""

    name: str
    model: HomerModel
    compresses: bool

    @property
    def scaled(self) -> bool:
        """Whether the model's window was extended by YaRN."""
        return "yarn" in self.name

    def facts(self) -> dict[str, Any]:
        """The window, and for a HOMER method the configuration it came to and what its calibration was measured on."""
        decoder = self.model.decoder
        if not self.compresses:
            return {"window": decoder.window}
        config = self.model.config.resolve(decoder.window, decoder.layers, decoder.sliding_window)
        calibration = self.model.calibration
        measured = None if calibration is None else calibration.metadata
        return {"window": decoder.window, "config": config.to_dict(), "calibration": measured}

    def answer(self, prefix: Tensor, context: Tensor, suffix: Tensor, max_new_tokens: int) -> tuple[str, int]:
        """What the model says, greedily, and how many tokens of the prompt it had in its cache then."""
        if self.compresses:
            cache = self.model.compress(prefix, context, suffix)
            return self.model.generate(cache, max_new_tokens).text or "", len(cache)
        ids = torch.cat([prefix, context, suffix])[None].to(self.model.decoder.device)
        generate: Any = self.model.model.generate
        output = generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
        )
        text: str = self.model.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        return text, ids.shape[1]


def open_methods(setup: Setup) -> Iterator[Method]:
    """Every method of a setup, one after the other; at most one model is loaded at a time."""
    for scaled in (False, True):
        names = [name for name in setup.methods if ("yarn" in name) == scaled]
        if names:
            base = _load(setup, scaled)
            yield from (_method(setup, name, base) for name in names)
            del base


def _load(setup: Setup, scaled: bool) -> HomerModel:
    if isinstance(setup.model, HomerModel):
        return setup.model
    device = setup.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return HomerModel.from_pretrained(
        setup.model,
        dtype=setup.dtype,
        device=None if device == "auto" else device,
        device_map="auto" if device == "auto" else None,  # which needs accelerate, an extra
        rope_scaling=setup.scale if scaled else None,
    )


def _method(setup: Setup, name: str, base: HomerModel) -> Method:
    if not name.startswith("homer"):
        return Method(name, base, False)
    chosen = setup.calibration
    if isinstance(chosen, Mapping):
        chosen = chosen.get(name)
    calibration = base.calibration if chosen is None else None if chosen == "none" else chosen
    config = HomerConfig.from_dict(base.config.to_dict() | dict(setup.settings))
    return Method(name, HomerModel(base.model, base.tokenizer, config, calibration), True)


def _label(calibration: Any) -> str:
    if isinstance(calibration, Calibration):
        return _measured(calibration.metadata)
    return Path(calibration).name


def _measured(metadata: Mapping[str, Any]) -> str:
    """A calibration that was handed over in memory, in a few words."""
    return f"measured on {metadata.get('segments', '?')} segments of {metadata.get('segment_len', '?')} tokens"
