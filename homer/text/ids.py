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
    tensor = _whole_numbers(name, ids, "token ids")
    if tensor.numel() and not (int(tensor.min()) >= 0 and int(tensor.max()) < vocabulary):
        wrong = int(tensor.max()) if int(tensor.max()) >= vocabulary else int(tensor.min())
        raise InputError(f"{name} holds the id {wrong}, but the vocabulary has {vocabulary}: check the tokenizer")
    return tensor


def check_numbers(numbers: TokenIds, tokens: int) -> Tensor:
    """Numbers of documents, one a token of a context, as a long tensor (tokens,) on the CPU.

    Raises:
        InputError: no numbers, another count, or a number below -1.
    """
    tensor = _whole_numbers("document_numbers", numbers, "numbers")
    if len(tensor) != tokens:
        raise InputError(f"document_numbers holds {len(tensor)} for {tokens} tokens of the context: give one a token")
    if tensor.numel() and int(tensor.min()) < -1:
        raise InputError(
            f"document_numbers holds {int(tensor.min())}: give the document's number, or -1 for what keeps its place"
        )
    return tensor


def check_ranks(ranks: TokenIds, tokens: int) -> Tensor:
    """Ranks of documents, one a token of a context, as a long tensor (tokens,) on the CPU.

    Raises:
        InputError: no numbers, another count, or a rank below 1.
    """
    tensor = _whole_numbers("document_ranks", ranks, "ranks")
    if len(tensor) != tokens:
        raise InputError(f"document_ranks holds {len(tensor)} for {tokens} tokens of the context: give one a token")
    if tensor.numel() and int(tensor.min()) < 1:
        raise InputError(f"document_ranks holds {int(tensor.min())}: ranks count from 1, the best one")
    return tensor


def check_of_documents(
    numbers: TokenIds | None, ranks: TokenIds | None, tokens: int
) -> tuple[Tensor | None, Tensor | None]:
    """Numbers and ranks of documents, as far as they are given. Raises InputError."""
    return (
        None if numbers is None else check_numbers(numbers, tokens),
        None if ranks is None else check_ranks(ranks, tokens),
    )


def _whole_numbers(name: str, ids: TokenIds, kind: str) -> Tensor:
    try:
        tensor = torch.as_tensor(ids).cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"{name}={shown(ids)} is no sequence of {kind} ({error}): give whole numbers, 1-D or (1, n)"
        ) from None
    if tensor.ndim == 2 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 1:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}: give one sequence, 1-D or (1, n)")
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool):
        raise InputError(f"{name} has dtype {tensor.dtype}: give whole numbers, such as torch.long")
    return tensor.long()
