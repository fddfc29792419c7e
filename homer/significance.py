"""Significance: which tokens of a chunk survive. One idea a function; all work on plain tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def last_query_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Scaled logits of the last query against every key, before the softmax, in float32.

    Args:
        query: (batch, heads, queries, head dim), rotated.
        key: (batch, key heads, length, head dim), rotated; query heads share key heads in groups.
        scaling: the attention's own factor.

    Returns:
        (batch, heads, length)
    """
    batch, heads, _, dim = query.shape
    grouped = query[:, :, -1].reshape(batch, key.shape[1], heads // key.shape[1], dim).float()
    logits: Tensor = torch.einsum("bkgd,bknd->bkgn", grouped, key.float()) * scaling
    return logits.reshape(batch, heads, -1)


def significance(logits: Tensor, position_ids: Tensor, bias: Tensor | None) -> Tensor:
    """The paper's significance: the largest logit over heads, minus the calibration bias at its distance.

    Args:
        logits: (heads, length), from `last_query_logits`, at the node's last layer.
        position_ids: (length,).
        bias: (distances,) of that layer, or None where the model is not calibrated.

    Returns:
        (length,)

    Source: Song et al., ICLR 2024, section 3.3.
    """
    scores = logits.amax(0)
    if bias is None:
        return scores
    distances = (position_ids[-1] - position_ids).to(scores.device)
    return scores - bias.to(scores.device, scores.dtype)[distances]


def select(scores: Tensor, prefix_len: int, suffix_len: int, target_len: int) -> Tensor:
    """Indices of the tokens that survive, in order: the whole affix, and the most significant of the rest.

    Args:
        scores: (length,).
        target_len: how many tokens to keep, affix included.

    Returns:
        (target_len,)
    """
    length = scores.shape[0]
    context = scores[prefix_len : length - suffix_len]
    best = context.topk(target_len - prefix_len - suffix_len).indices.sort().values + prefix_len
    prefix = torch.arange(prefix_len, device=scores.device)
    suffix = torch.arange(length - suffix_len, length, device=scores.device)
    return torch.cat([prefix, best, suffix])


def attention_row(logits: Tensor) -> Tensor:
    """Attention weights of the last query, averaged over heads: (heads, length) -> (length,)."""
    return logits.softmax(-1).mean(0)
