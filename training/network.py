"""The small model's layers for training: transformers' modules, run so that the evidence loss can watch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

FIRST_EVIDENCE_LAYER = 5
_SHARPNESS = 4.0


def new_model(vocabulary: int, end_id: int, pad_id: int, window: int = 1024) -> LlamaForCausalLM:
    """The untrained model: 14.7M parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=16,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=window,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=end_id,
            pad_token_id=pad_id,
            initializer_range=0.02,
        )
    )


def run_layer(
    layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], asking: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One causal layer.

    Args:
        hidden: (batch, length, hidden size); rotary: cosine and sine, (batch, length, head dim) each.
        asking: (batch, queries), tokens whose queries are wanted.

    Returns:
        hidden states; logits (batch, heads, queries, length) of those queries before any mask, in float32;
        keys and values (batch, length, heads x head dim).
    """
    q, k, v = _projections(layer, hidden, rotary)
    hidden = _finish(layer, hidden, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return hidden, _looks(q, k, asking, layer.self_attn.scaling), _flat(k), _flat(v)


def read_layer(
    layer: Any,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    cache: tuple[Tensor, Tensor],
    mask: Tensor,
    asking: Tensor,
) -> tuple[Tensor, Tensor]:
    """One layer whose tokens also see a cache of keys and values (batch, cached, heads x head dim).

    Args:
        mask: (batch, 1, length, cached + length), True where a token may look.

    Returns:
        hidden states, and logits (batch, heads, queries, cached) of the queries at `asking`.
    """
    q, k, v = _projections(layer, hidden, rotary)
    keys, values = (_heads(t.to(k.dtype), layer.self_attn.head_dim) for t in cache)
    mixed = F.scaled_dot_product_attention(q, torch.cat([keys, k], 2), torch.cat([values, v], 2), attn_mask=mask)
    return _finish(layer, hidden, mixed), _looks(q, keys, asking, layer.self_attn.scaling)


def evidence_loss(looks: Tensor, inside: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy between where queries look, over the documents, and the tokens of the facts they ask for.

    Args:
        looks: (batch, heads, queries, length), logits.
        inside: (batch, length), the documents; wanted: (batch, queries, length), the fact's tokens.

    Returns:
        A mean over the queries that want something; 0 where none does.
    """
    z = torch.logsumexp(_SHARPNESS * looks, 1) / _SHARPNESS
    z = z.masked_fill(~inside[:, None], -1e4)
    target = wanted.float()
    count = target.sum(2)
    loss = -(target * z.log_softmax(2)).sum(2) / count.clamp_min(1)
    asked = count > 0
    return (loss * asked).sum() / asked.sum().clamp_min(1)


def answer_loss(model: Any, hidden: Tensor, targets: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of the next tokens, and which of them were right (batch, length - 1).

    Args:
        hidden: (batch, length, hidden size), after the last layer; targets, weight: (batch, length), of each token.
    """
    logits = model.lm_head(model.model.norm(hidden))[:, :-1]
    each = F.cross_entropy(logits.flatten(0, 1).float(), targets[:, 1:].flatten(), reduction="none")
    weight = weight[:, 1:].flatten()
    return (each * weight).sum() / weight.sum().clamp_min(1e-6), logits.argmax(-1) == targets[:, 1:]


def _projections(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    attention, normed = layer.self_attn, layer.input_layernorm(hidden)
    q, k, v = (_heads(f(normed), attention.head_dim) for f in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = apply_rotary_pos_emb(q, k, *rotary)
    return q.to(v.dtype), k.to(v.dtype), v


def _finish(layer: Any, hidden: Tensor, mixed: Tensor) -> Tensor:
    hidden = hidden + layer.self_attn.o_proj(_flat(mixed))
    result: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return result


def _looks(q: Tensor, k: Tensor, asking: Tensor, scaling: float) -> Tensor:
    index = asking[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
    return q.gather(2, index).float() @ k.float().transpose(2, 3) * scaling


def _heads(x: Tensor, head_dim: int) -> Tensor:
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def _flat(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
