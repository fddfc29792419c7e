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


def check_numbers(numbers: TokenIds | None, tokens: int) -> Tensor | None:
    """Numbers of documents, one a token of a context, as a long tensor (tokens,) on the CPU; None where none are given.

    Raises:
        InputError: no numbers, another count, or a number below -1.
    """
    return _one_a_token(
        "document_numbers", numbers, tokens, -1, "the document's number, or -1 for what keeps its place"
    )


def check_ranks(ranks: TokenIds | None, tokens: int) -> Tensor | None:
    """Ranks of documents, likewise; the best one is 1. Raises InputError."""
    return _one_a_token("document_ranks", ranks, tokens, 1, "ranks that count from 1, the best one")


def _one_a_token(name: str, given: TokenIds | None, tokens: int, least: int, wanted: str) -> Tensor | None:
    if given is None:
        return None
    tensor = _whole_numbers(name, given, "numbers")
    if len(tensor) != tokens:
        raise InputError(f"{name} holds {len(tensor)} for {tokens} tokens of the context: give one a token")
    if tensor.numel() and int(tensor.min()) < least:
        raise InputError(f"{name} holds {int(tensor.min())}: give {wanted}")
    return tensor


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
