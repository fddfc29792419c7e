"""Significance: which tokens of a chunk survive. One idea a function; all work on plain tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_DEVIATION = 0.3  # a head that hardly moves would otherwise shout at any change


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
        logits: (..., heads, length), from `last_query_logits`, at the node's last layer.
        position_ids: (..., length).
        bias: (distances,) of that layer, or None where the model is not calibrated.

    Returns:
        (..., length)

    Source: Song et al., ICLR 2024, section 3.3.
    """
    scores = logits.amax(-2)
    if bias is None:
        return scores
    distances = (position_ids[..., -1:] - position_ids).to(scores.device)
    return scores - bias.to(scores.device, scores.dtype)[distances]


def z_scores(logits: Tensor, distances: Tensor, means: Tensor, inverses: Tensor) -> Tensor:
    """Logits in deviations above what the same head gives tokens at the same distance in text without the answer.

    Args:
        logits: (chunks, heads, length), of heads of any layers.
        distances: (chunks, length), of each token from the last one.
        means, inverses: (heads, distances), a calibration's means and one over its deviations.

    Returns:
        (chunks, heads, length)
    """
    if len(distances) == 1:
        return (logits - means[:, distances[0]].float()) * inverses[:, distances[0]].float()
    at = [norm[:, distances].transpose(0, 1).float() for norm in (means, inverses)]
    return (logits - at[0]) * at[1]


def own_norms(logits: Tensor, prefix_len: int, suffix_len: int) -> Tensor:
    """Logits in deviations above the mean of the same chunk's context: what can be had without a calibration.

    Args:
        logits: (chunks, heads, length), as is the result.
    """
    context = logits[..., prefix_len : logits.shape[-1] - suffix_len]
    deviation = context.std(-1, keepdim=True, correction=0).clamp(min=LEAST_DEVIATION)
    return (logits - context.mean(-1, keepdim=True)) / deviation


def running(scores: Tensor, before: Tensor | None) -> Tensor:
    """The larger of what tokens score now and what they scored before: (chunks, length) each."""
    return scores if before is None else torch.maximum(scores, before.to(scores.device))


def pool(scores: Tensor, window: int, prefix_len: int, suffix_len: int) -> Tensor:
    """Every context token with the largest score within a window around it; the affix as it is.

    Args:
        scores: (chunks, length), as is the result.
        window: tokens, an odd number.

    Source: Li et al., SnapKV, 2024, which pools attention before it selects.
    """
    end = scores.shape[-1] - suffix_len
    context = F.max_pool1d(scores[:, None, prefix_len:end], window, stride=1, padding=window // 2)[:, 0]
    return torch.cat([scores[:, :prefix_len], context, scores[:, end:]], -1)


def by_sentence(scores: Tensor, sentences: Tensor, prefix_len: int, suffix_len: int) -> Tensor:
    """Every context token with the largest score of its sentence, and a little of its own to settle ties.

    Args:
        scores: (chunks, length), as is the result.
        sentences: (chunks, length), the sentence's number; what is left of one stands together.
    """
    end = scores.shape[-1] - suffix_len
    own, number = scores[:, prefix_len:end], sentences[:, prefix_len:end].to(scores.device)
    run = F.pad((number.diff() != 0).long().cumsum(1), (1, 0))
    best = torch.full_like(own, -torch.inf).scatter_reduce(1, run, own, "amax").gather(1, run)
    return torch.cat([scores[:, :prefix_len], best + 1e-3 * own, scores[:, end:]], -1)


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
