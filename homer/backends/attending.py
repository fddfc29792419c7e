"""Attention by PyTorch's kernels, in shapes that come again: some kernels are planned anew for every other one.

On an H100 PyTorch gives 16-bit attention to cuDNN, which is the fastest there, and takes 64 ms to plan for a shape
that it has not met. No two prompts are equally long, so that nearly every chunk would be such a shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from homer.base.locks import Lock

_SWITCH = Lock()  # of the process's choice among attention kernels
_STEPS = 8  # lengths that are planned for between two powers of two
_SHORT = 1024  # tokens up to which another kernel is as fast
_LONG = 8192  # tokens from which planning costs less than the faster kernel spares


def attend(query: Tensor, key: Tensor, value: Tensor, plans: bool = False) -> Tensor:
    """Causal attention of (batch, rows, heads, head dim) tensors: (batch, rows, heads x head dim).

    Args:
        plans: whether PyTorch would plan for the shape; there must be as many rows as `rows_for` says.
    """
    groups = query.shape[2] // key.shape[2]
    # flash attention takes grouped heads, but not float32; what takes float32 without a matrix takes no groups
    fused = groups > 1 and query.dtype != torch.float32
    if groups > 1 and not fused:
        key, value = (t.repeat_interleave(groups, 2) for t in (key, value))
    query, key, value = (t.transpose(1, 2) for t in (query, key, value))
    if plans and not _worth_planning(len(query), query.shape[2]):
        attended = _attend_unplanned(query, key, value)
    else:
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=fused)
    return attended.transpose(1, 2).flatten(2)


def rows_for(batch: int, length: int, plans: bool) -> int:
    """Rows that chunks are to have for `attend`: their own, or more, of which those behind them are zeros."""
    return planned_len(length) if plans and _worth_planning(batch, length) else length


def attend_in_groups(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of few queries (batch, n, heads, head dim) over many keys (batch, key heads, length, head dim).

    Query heads that share a key head stand one behind the other as if they were more queries, so that no key is
    copied. mask: (n, length), or (batch, 1, n, length); None: all is seen.
    """
    shared, groups = key.shape[1], query.shape[2] // key.shape[1]
    count = query.shape[1]
    queries = query.transpose(1, 2).reshape(len(query), shared, groups * count, -1)
    if mask is not None:
        mask = mask.repeat(*[1] * (mask.ndim - 2), groups, 1)
    with unplanned(queries):
        attended = F.scaled_dot_product_attention(queries, key, value, attn_mask=mask)
    return attended.reshape(len(query), shared * groups, count, -1).transpose(1, 2).flatten(2)


def last_rows(queries: int, length: int, device: torch.device) -> Tensor:
    """(queries, length): the last queries of a causal mask."""
    return torch.ones(queries, length, dtype=torch.bool, device=device).tril(length - queries)


def is_planned(query: Tensor, key: Tensor) -> bool:
    """Whether PyTorch would take a kernel that is planned for the shape; (batch, rows, heads, head dim) tensors."""
    if not query.is_cuda:
        return False
    groups, query, key = query.shape[2] != key.shape[2], query.transpose(1, 2), key.transpose(1, 2)
    with _SWITCH:
        chosen: int = torch._fused_sdp_choice(query, key, key, is_causal=True, enable_gqa=groups)
    return chosen == SDPBackend.CUDNN_ATTENTION.value


def planned_len(length: int) -> int:
    """The next length that is planned for: of eight between two powers of two, so that few are."""
    step = max(1, (1 << (length - 1).bit_length()) // (2 * _STEPS))
    return -(-length // step) * step


def planned_lens(longest: int) -> list[int]:
    """All lengths that chunks of so many tokens at most are planned for."""
    return sorted({planned_len(length) for length in range(_SHORT + 1, longest + 1)})


@contextlib.contextmanager
def unplanned(query: Tensor, length: int = 0) -> Iterator[None]:
    """Attention over so many keys by no kernel that is planned, where planning would cost more than it spares.

    The switch is the process's, so that one thread at a time may turn it. query: (batch, heads, queries, head dim).
    """
    if not query.is_cuda or query.dtype == torch.float32 or query.shape[2] * length >= _LONG**2:
        yield
        return
    with _SWITCH, sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def _worth_planning(batch: int, length: int) -> bool:
    return batch == 1 and length > _SHORT


def _attend_unplanned(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """By flash attention, named itself: a switch would be the whole process's."""
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True)[0]
    return attended
