"""Decoder layers of the most common kind as plain weights: norm, attention with rotary positions, norm, SwiGLU."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from homer.backends.architecture import not_plain

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_ROPE = ("default", "linear", "llama3", "yarn")


class Projection(NamedTuple):
    """A matrix product with or without a bias."""

    weight: Tensor
    bias: Tensor | None

    def prepared(self, x: Tensor) -> Any:
        """What this and other projections of the same states take: the states, unless a kind of product wants more."""
        return x

    def __call__(self, x: Tensor) -> Tensor:
        """The product for (..., features in): (..., features out)."""
        return nn.functional.linear(x, self.weight, self.bias)

    def into(self, x: Tensor, out: Tensor) -> None:
        """The same, written to `out`, which may split the features in several dimensions."""
        rows, target = x.flatten(0, -2), out.view(-1, self.weight.shape[0])
        if self.bias is None:
            torch.mm(rows, self.weight.t(), out=target)
        else:
            torch.addmm(self.bias, rows, self.weight.t(), out=target)


@dataclasses.dataclass(frozen=True)
class Block:
    """One layer. `query_norm` and `key_norm` are there where every head is normed, as in Qwen3."""

    input_norm: Tensor
    query: Projection
    key: Projection
    value: Projection
    output: Projection
    middle_norm: Tensor
    gate: Projection
    up: Projection
    down: Projection
    query_norm: Tensor | None
    key_norm: Tensor | None
    eps: float
    head_dim: int


class UnknownBlockError(Exception):
    """A model whose layers are not of this kind; says why."""


def read_blocks(causal_lm: Any) -> tuple[Block, ...]:
    """The layers of a model. Raises UnknownBlockError where one of them may compute anything else."""
    config = causal_lm.config.get_text_config()
    if config.model_type not in FAMILIES:
        raise UnknownBlockError(f"its family is {config.model_type}, not one of {', '.join(FAMILIES)}")
    _check_rope(config)
    if reason := not_plain(causal_lm):
        raise UnknownBlockError(reason)
    if type(causal_lm.lm_head) is not nn.Linear:
        raise UnknownBlockError(f"its head is a {type(causal_lm.lm_head).__name__}")
    return tuple(_block(layer) for layer in causal_lm.get_decoder().layers)


def _block(layer: Any) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    if "silu" not in type(mlp.act_fn).__name__.lower():
        raise UnknownBlockError(f"its activation is {type(mlp.act_fn).__name__}")
    query_norm, key_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return Block(
        input_norm=layer.input_layernorm.weight,
        query=_projection(attention.q_proj),
        key=_projection(attention.k_proj),
        value=_projection(attention.v_proj),
        output=_projection(attention.o_proj),
        middle_norm=layer.post_attention_layernorm.weight,
        gate=_projection(mlp.gate_proj),
        up=_projection(mlp.up_proj),
        down=_projection(mlp.down_proj),
        query_norm=None if query_norm is None else query_norm.weight,
        key_norm=None if key_norm is None else key_norm.weight,
        eps=layer.input_layernorm.variance_epsilon,
        head_dim=attention.head_dim,
    )


def _projection(module: Any) -> Projection:
    if type(module) is not nn.Linear or module._forward_hooks or module._forward_pre_hooks:
        raise UnknownBlockError(f"a projection is a {type(module).__name__}, or carries hooks")
    if type(module.weight) is not nn.Parameter or not module.weight.is_floating_point():
        raise UnknownBlockError(f"its weights are quantized ({type(module.weight).__name__})")
    return Projection(module.weight, module.bias)


def _check_rope(config: Any) -> None:
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise UnknownBlockError(f"its attention slides over {config.sliding_window} tokens")
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in _ROPE:
        raise UnknownBlockError(f"its rotary positions are of type {kind}")
