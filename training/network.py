"""The small model's forward pass for training, with the evidence loss; the weights are transformers' own modules."""

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


def forward(
    model: LlamaForCausalLM,
    ids: Tensor,
    positions: Tensor,
    queries: Tensor,
    context: Tensor,
    owners: Tensor,
    merges: Tensor | None = None,
    filler: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits (batch, length, vocabulary) and the evidence loss, a mean over questions and layers.

    Args:
        ids, positions: (batch, length).
        queries: (batch, questions, 2), place of the query token and number of its fact; place -1: none.
        context: (batch, 2), first and end of the documents.
        owners: (batch, length), number of the fact that a token belongs to.
        merges: (layers,), 1 after each layer where chunks would be merged; None: nowhere. What stands around the
            documents is averaged there with its states beside documents that hold no evidence, as a merge does.
        filler: (batch, length), the tokens of those documents.
    """
    decoder: Any = model.model
    rows = len(ids)
    index = torch.arange(ids.shape[1], device=ids.device)
    inside = (index >= context[:, :1]) & (index < context[:, 1:])
    places, facts = queries.long().unbind(2)
    wanted = ((owners.long()[:, None] == facts[:, :, None]) & inside[:, None]).float()
    asked = (places >= 0) & (wanted.sum(2) > 0)
    if filler is not None:
        ids, positions = torch.cat([ids, torch.where(inside, filler, ids)]), torch.cat([positions, positions])
    hidden = decoder.embed_tokens(ids)
    rotary = decoder.rotary_emb(hidden, positions)
    losses = hidden.new_zeros((), dtype=torch.float32)
    for number, layer in enumerate(decoder.layers):
        attended, q, k = _attention(layer.self_attn, layer.input_layernorm(hidden), rotary)
        hidden = hidden + attended
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        if number >= FIRST_EVIDENCE_LAYER:
            losses = losses + _evidence_loss(
                q[:rows], k[:rows], places.clamp_min(0), inside, wanted, asked, layer.self_attn.scaling
            )
        if merges is not None:
            own, other = hidden[:rows], hidden[rows:]
            mixed = torch.where(inside[:, :, None], own, (own + other) / 2)
            hidden = torch.cat([torch.where(merges[number] > 0, mixed, own), other])
    logits = model.lm_head(decoder.norm(hidden[:rows]))
    return logits, losses / (len(decoder.layers) - FIRST_EVIDENCE_LAYER)


def _attention(attention: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, _ = hidden.shape
    shape = (batch, length, -1, attention.head_dim)
    q, k, v = (f(hidden).view(shape).transpose(1, 2) for f in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = apply_rotary_pos_emb(q, k, *rotary)
    q, k = q.to(v.dtype), k.to(v.dtype)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return attention.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1)), q, k


def _evidence_loss(
    q: Tensor, k: Tensor, places: Tensor, inside: Tensor, wanted: Tensor, asked: Tensor, scaling: float
) -> Tensor:
    """Cross-entropy between where the query tokens look, over the documents, and the tokens of the facts."""
    index = places[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
    z = q.gather(2, index).float() @ k.float().transpose(2, 3) * scaling
    z = torch.logsumexp(_SHARPNESS * z, 1) / _SHARPNESS
    z = z.masked_fill(~inside[:, None], -1e4)
    target = wanted / wanted.sum(2, keepdim=True).clamp_min(1)
    loss = -(target * z.log_softmax(2)).sum(2)
    return (loss * asked).sum() / asked.sum().clamp_min(1)
