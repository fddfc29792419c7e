"""Token ids as users give them: checked, and brought to one shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from homer.base.arguments import shown
from homer.errors import InputError

TokenIds = Tensor | Sequence[int]


def check_ids(name: str, ids: TokenIds, vocabulary: int) -> Tensor:
    """Ids 1-D or (1, n) as a long tensor (n,) on the CPU.

    Raises:
        InputError: no numbers, another shape, another dtype, or ids beyond the vocabulary.
    """
    try:
        tensor = torch.as_tensor(ids).cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"{name}={shown(ids)} is no sequence of token ids ({error}): give whole numbers, 1-D or (1, n)"
        ) from None
    if tensor.ndim == 2 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 1:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}: give one sequence, 1-D or (1, n)")
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool):
        raise InputError(f"{name} has dtype {tensor.dtype}: give whole numbers, such as torch.long")
    tensor = tensor.long()
    if tensor.numel() and not (int(tensor.min()) >= 0 and int(tensor.max()) < vocabulary):
        wrong = int(tensor.max()) if int(tensor.max()) >= vocabulary else int(tensor.min())
        raise InputError(f"{name} holds the id {wrong}, but the vocabulary has {vocabulary}: check the tokenizer")
    return tensor
