"""The schedule of one compression: which tokens, which layers and how many survivors, in whole numbers only.

A context is cut into 2^height leaves; level 0 are the leaves, level `height` is the root. Nothing here
needs torch, so the whole plan can be printed and tested before a model is there.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Sequence

from homer.errors import ConfigError, InputError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MergePlan:
    """What `plan_merge` decides.

    Attributes:
        prefix_len, suffix_len: affix tokens, which every chunk holds.
        spans: (start, end) of each leaf's slice of the context; together they cover it once.
        layers: (first, end) of the layers that each level runs, leaves first; first == end: none.
        lengths: tokens that each node holds when its layers run, by level.
        targets: tokens that each node keeps, by level; the root's is the final length.
        suffix_start: position id of the first suffix token, the same in every chunk.
    """

    prefix_len: int
    suffix_len: int
    spans: tuple[tuple[int, int], ...]
    layers: tuple[tuple[int, int], ...]
    lengths: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    suffix_start: int

    @property
    def height(self) -> int:
        """Merges between a leaf and the root."""
        return len(self.layers) - 1

    @property
    def final_len(self) -> int:
        """Tokens that the compact cache will hold in every layer."""
        return self.targets[-1][0]

    @property
    def prunes(self) -> bool:
        """Whether any token is dropped at all."""
        return self.lengths != self.targets

    @property
    def nodes(self) -> int:
        """Chunks that run layers, leaves and merged ones."""
        return sum(len(row) for row, (first, end) in zip(self.lengths, self.layers, strict=True) if end > first)


def plan_merge(
    prefix_len: int,
    context_len: int,
    suffix_len: int,
    *,
    layers: int,
    max_chunk_len: int,
    target_len: int,
    layers_warmup: int,
    max_initial_chunk_len: int | None = None,
) -> MergePlan:
    """Plan the compression of prefix + context + suffix (lengths in tokens) by a model of `layers` layers.

    Raises:
        InputError: an empty context or suffix, or an affix that leaves a chunk no room.
        ConfigError: a target below the affix, or no layer left to merge in.

    Source: Song et al., Hierarchical Context Merging, ICLR 2024, section 3; deep trees are this library's own.
    """
    affix = prefix_len + suffix_len
    _check_lengths(prefix_len, context_len, suffix_len, max_chunk_len, target_len)
    room = max_chunk_len - affix
    initial_room = (max_initial_chunk_len or 0) - affix
    leaf_room = initial_room if initial_room > 0 else room
    height = _height(context_len, leaf_room)
    ranges = layer_ranges(layers, layers_warmup, height)
    spans = split_context(context_len, 2**height)
    tree = _Tree(ranges, room, [end - start for start, end in spans])
    lengths, targets = tree.fill(target_len - affix)
    return MergePlan(
        prefix_len=prefix_len,
        suffix_len=suffix_len,
        spans=tuple(spans),
        layers=tuple(ranges),
        lengths=tuple(tuple(affix + n for n in row) for row in lengths),
        targets=tuple(tuple(affix + n for n in row) for row in targets),
        suffix_start=prefix_len + spans[0][1],
    )


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


def layer_ranges(layers: int, layers_warmup: int, height: int) -> list[tuple[int, int]]:
    """(first, end) of the layers each level runs, leaves first.

    Merging layers are shared evenly and the leaves take what is over. In a tree with more levels than
    merging layers the upper levels get one layer each and the levels above the leaves none.

    Raises:
        ConfigError: several chunks, and no layer to merge them in.
    """
    merging = layers - layers_warmup
    if height and min(merging, layers - 1) < 1:
        raise ConfigError(
            f"layers_warmup={layers_warmup} leaves none of {layers} layers to merge chunks in: lower it to "
            f"{layers - 1} at most, or raise max_chunk_len until the context fits one chunk"
        )
    per_level = merging // (height + 1)
    if per_level:
        counts = [per_level] * height
    else:
        single = min(merging, height, layers - 1)
        counts = [0] * (height - single) + [1] * single
        if single < height:
            _warn_of_depth(height, single)
    ends = [layers - sum(counts[level:]) for level in range(height + 1)]
    return list(itertools.pairwise([0, *ends]))


@functools.cache
def _warn_of_depth(height: int, single: int) -> None:
    """Warn once of every such tree."""
    logger.warning(
        "the tree has %d levels above the leaves but only %d layers to merge in: the lowest %d merge without a layer "
        "of their own; a larger max_chunk_len makes a flatter tree",
        height,
        single,
        height - single,
    )


class _Tree:
    """Context tokens (affix left out) that every node of a perfect binary tree holds and keeps."""

    def __init__(self, ranges: Sequence[tuple[int, int]], room: int, leaves: list[int]) -> None:
        self.prunes = [end > first for first, end in ranges]
        self.room = room
        self.held = [leaves]
        self.kept: list[list[int]] = []

    def fill(self, target: int) -> tuple[list[list[int]], list[list[int]]]:
        """Tokens held and tokens kept, by level, where the root keeps `target` at most."""
        for level in range(1, len(self.prunes)):
            pairs = _pairs(self.held[-1])
            if self.prunes[level]:
                self.held.append([sum(_halves(self.room, *pair)) for pair in pairs])
            else:  # it holds whatever its children are told to keep: all they have, until that is decided
                self.held.append([sum(pair) for pair in pairs])
        kept = [[min(target, self.held[-1][0])]]
        for level in range(len(self.prunes) - 1, 0, -1):
            pairs = _pairs(self.held[level - 1])
            if self.prunes[level]:
                shares = [_halves(self.room, *pair) for pair in pairs]
            else:
                shares = [_split(budget, *pair) for budget, pair in zip(kept[0], pairs, strict=True)]
            kept.insert(0, [n for pair in shares for n in pair])
            if not self.prunes[level - 1]:
                self.held[level - 1] = kept[0]
        return self.held, kept


def _halves(room: int, left: int, right: int) -> tuple[int, int]:
    """What two children keep so that their parent fits `room`: half each; the left more where the right is short."""
    half = room // 2
    if right < half:
        return min(left, room - right), right
    return min(left, half), half


def _split(budget: int, left: int, right: int) -> tuple[int, int]:
    """`budget` shared out between two children to the last token, since their parent cannot prune."""
    right_share = min(right, max(budget // 2, budget - left))
    return min(left, budget - right_share), right_share


def _pairs(row: list[int]) -> list[tuple[int, int]]:
    return list(zip(row[::2], row[1::2], strict=True))


def _height(context_len: int, leaf_room: int) -> int:
    height = (-(-context_len // leaf_room) - 1).bit_length()
    return min(height, context_len.bit_length() - 1)  # no more chunks than tokens


def _check_lengths(prefix_len: int, context_len: int, suffix_len: int, max_chunk_len: int, target_len: int) -> None:
    affix = prefix_len + suffix_len
    if context_len < 1:
        raise InputError("the context holds 0 tokens: give at least 1, or run the model on prefix + suffix itself")
    if suffix_len < 1:
        raise InputError("the suffix holds 0 tokens: its last token decides what is kept; give at least 1")
    if max_chunk_len - affix < min(2, context_len):
        raise InputError(
            f"prefix and suffix take {affix} of max_chunk_len={max_chunk_len} tokens, which leaves no room for "
            f"2 tokens of context: shorten them, or raise max_chunk_len to {affix + 2} at least"
        )
    if target_len <= affix:
        raise ConfigError(
            f"target_len={target_len} leaves no room for {affix} affix tokens: raise it above {affix} or shorten "
            f"prefix and suffix"
        )
