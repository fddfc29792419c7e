"""Presets: the paper's settings by one name."""

from __future__ import annotations

import dataclasses
from typing import Any

from homer.experiments.methods import METHODS


@dataclasses.dataclass(frozen=True)
class Preset:
    """The settings of one of the paper's models; everything can be overridden one by one.

    Chunks and targets are half the window (2,048 tokens; 4,096 with YaRN x2), which is HomerConfig's own default.

    Attributes:
        base, chat: the hub ids; the paper measures perplexity on the base model, passkeys on the chat model.
        settings: HomerConfig's fields.
        scale: of YaRN.
        dtype: of the weights.
    """

    base: str
    chat: str
    settings: dict[str, Any]
    scale: float = 2.0
    dtype: str = "float16"
    methods: tuple[str, ...] = METHODS

    def setup(self, chat: bool) -> dict[str, Any]:
        """The arguments of Setup for the base or the chat model."""
        chosen = {"model": self.chat if chat else self.base, "methods": self.methods, "scale": self.scale}
        return chosen | {"settings": dict(self.settings), "dtype": self.dtype}


def _llama(size: str, layers_warmup: int) -> Preset:
    name = f"meta-llama/Llama-2-{size}"
    return Preset(f"{name}-hf", f"{name}-chat-hf", {"layers_warmup": layers_warmup, "refresh_suffix": False})


# the 13B model's warmup of 20 layers has not been checked against the paper
PRESETS = {"llama-2-7b": _llama("7b", 12), "llama-2-13b": _llama("13b", 20)}
