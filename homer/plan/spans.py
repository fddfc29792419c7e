"""Spans: where a context is cut into leaves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from homer.base.arguments import check_list, check_whole
from homer.errors import InputError


def split_context(context_len: int, chunks: int) -> list[tuple[int, int]]:
    """(start, end) of each chunk's slice: all as long as the first, the last one the rest.

    Where that would leave the last slices empty, lengths differ by one instead.
    """
    longest = -(-context_len // chunks)
    if (chunks - 1) * longest < context_len:
        return [(i * longest, min((i + 1) * longest, context_len)) for i in range(chunks)]
    short, extra = divmod(context_len, chunks)
    starts = [i * short + min(i, extra) for i in range(chunks + 1)]
    return list(itertools.pairwise(starts))


def split_documents(document_lens: Sequence[int], context_len: int, leaf_room: int) -> list[tuple[int, int]]:
    """(start, end) of the leaves of every document, of `leaf_room` tokens at most each.

    Raises:
        InputError: an empty document, or lengths that are not the context's together.
    """
    for number, length in enumerate(check_list("document_lens", document_lens, "lengths in tokens")):
        check_whole(f"document_lens[{number}]", length, 0)
    if min(document_lens, default=0) < 1 or sum(document_lens) != context_len:
        raise InputError(
            f"document_lens are {len(document_lens)} lengths of {sum(document_lens)} tokens for a context of "
            f"{context_len}, the shortest {min(document_lens, default=0)}: give one length of at least 1 for each "
            f"document, {context_len} together"
        )
    spans: list[tuple[int, int]] = []
    for start, length in zip(itertools.accumulate(document_lens, initial=0), document_lens, strict=False):
        spans += [(start + a, start + b) for a, b in split_context(length, -(-length // leaf_room))]
    return spans
