"""Attention that can be watched: wrappers around transformers' own attention functions.

A wrapper does what the function it wraps does. If the call carries an observer (a keyword argument that
decoders hand down to their attention), it first shows it the rotated queries and keys. Wrappers are
registered beside the originals, once for each; no model and no registered function is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from homer.backends.attending import unplanned

OBSERVER = "homer_observer"
_PREFIX = "homer_"
_PLAIN = ("eager", "sdpa")


class Observer(Protocol):
    """What may be handed to a decoder under the keyword `OBSERVER`."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Called in every layer with query (batch, heads, n, dim) and key (batch, key heads, m, dim)."""


def watched(implementation: str) -> str:
    """The name of the wrapper around an attention implementation, registered if it is not yet."""
    name = _PREFIX + implementation
    if name not in ALL_ATTENTION_FUNCTIONS:
        if implementation in ALL_MASK_ATTENTION_FUNCTIONS:
            AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
        AttentionInterface.register(name, _wrapper(implementation))
    return name


def _wrapper(implementation: str) -> Callable[..., Any]:
    def attention(module: Any, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        observer: Observer | None = kwargs.pop(OBSERVER, None)
        if observer is not None:
            observer(module.layer_idx, query, key, kwargs.get("scaling") or query.shape[-1] ** -0.5)
        # positions repeat after a merge, which flash attention would take for several packed sequences
        kwargs.pop("position_ids", None)
        function = _original(implementation, module)
        target = module if implementation in _PLAIN else _Renamed(module, implementation)
        if implementation != "sdpa":
            return function(target, query, key, *args, **kwargs)
        with unplanned(query, key.shape[2]):
            return function(target, query, key, *args, **kwargs)

    return attention


def _original(implementation: str, module: nn.Module) -> Callable[..., Any]:
    if implementation == "eager":  # each model's file has its own, with its softcap or sinks
        eager: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
        return eager
    function: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[implementation]
    return function


class _Renamed:
    """An attention module as its own implementation knows it: flash attention reads its name in the config."""

    def __init__(self, module: nn.Module, implementation: str) -> None:
        self._module = module
        self.config = _NamedConfig(module.config, implementation)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _NamedConfig:
    def __init__(self, config: Any, implementation: str) -> None:
        self._config = config
        self._attn_implementation = implementation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)
