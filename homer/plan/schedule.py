"""The schedule of one compression: which tokens, which layers and how many survivors, in whole numbers only.

A context is cut into 2^height leaves, or into leaves that end where its documents end; level 0 are the leaves, level
`height` is the root. Nothing here needs torch, so the whole plan can be printed and tested before a model is there.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence

from homer.base.arguments import check_whole
from homer.config import ResolvedConfig
from homer.errors import ConfigError, InputError
from homer.plan.layers import document_layer_ranges, layer_ranges
from homer.plan.shares import Tree, children_of
from homer.plan.spans import split_context, split_documents

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MergePlan:
    """What `plan_merge` decides.

    Attributes:
        prefix_len, suffix_len: affix tokens, which every chunk holds.
        spans: (start, end) of each leaf's slice of the context; together they cover it once.
        layers: (first, end) of the layers that each level runs, leaves first; first == end: none.
        lengths: tokens that each node holds when its layers run, by level.
        targets: tokens that each node keeps, by level.
        suffix_start: position id of the first suffix token, the same in every chunk.
        last_len: tokens that stay after a last look at all that the root keeps; None where there is none.
        reads_anew: whether what stays is run once more, as a short prompt of its own.

    Level 1 joins leaves in pairs as far as they go, and takes the others as they are; above, the tree is perfect.
    """

    prefix_len: int
    suffix_len: int
    spans: tuple[tuple[int, int], ...]
    layers: tuple[tuple[int, int], ...]
    lengths: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    suffix_start: int
    last_len: int | None = None
    reads_anew: bool = False

    @property
    def height(self) -> int:
        """Merges between a leaf and the root."""
        return len(self.layers) - 1

    @property
    def final_len(self) -> int:
        """Tokens that the compact cache will hold in every layer."""
        return self.targets[-1][0] if self.last_len is None else self.last_len

    @property
    def prunes(self) -> bool:
        """Whether any token is dropped at all."""
        return self.lengths != self.targets or self.looks_again

    @property
    def next_position(self) -> int:
        """Position id of the first token that is generated."""
        return self.final_len if self.reads_anew else self.suffix_start + self.suffix_len

    @property
    def looks_again(self) -> bool:
        """Whether a last look at the root decides what stays."""
        return self.final_len < self.targets[-1][0]

    def children(self, level: int, index: int) -> range:
        """The one or two nodes of the level below that node `index` of a level is made of."""
        return children_of(len(self.lengths[level - 1]), len(self.lengths[level]), index)

    def completed(self, leaf: int) -> Iterator[tuple[int, int, int]]:
        """(level, index, children) of every node that can run once leaf number `leaf` has run, lowest first."""
        child = leaf
        for level in range(1, self.height + 1):
            # whose child this is: `children_of` turned round, both in whole numbers, so that neither can be off by one
            index = ((child + 1) * len(self.lengths[level]) - 1) // len(self.lengths[level - 1])
            children = self.children(level, index)
            if child != children[-1]:
                return
            yield level, index, len(children)
            child = index

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
    suffix_budget: int = 0,
    document_lens: Sequence[int] | None = None,
    last_look: bool = False,
) -> MergePlan:
    """Plan the compression of prefix + context + suffix (lengths in tokens) by a model of `layers` layers.

    Args:
        suffix_budget: room kept in every leaf, so that all suffixes up to this long get the same leaves.
        document_lens: lengths of the documents in the context, where no leaf may span two of them. The leaves
            then run as many layers in any company, so that a document's leaves are the same in all.
        last_look: the root keeps all that it holds, until a last look decides which `target_len` tokens stay; these
            are then read anew, where they fit one chunk.

    Raises:
        InputError: an empty context or suffix, an affix that leaves a chunk no room, or documents that are empty
            or not as long as the context.
        ConfigError: a target below the affix, or no layer left to merge in.

    Source: Song et al., Hierarchical Context Merging, ICLR 2024, section 3; deep trees are this library's own.
    """
    check_whole("prefix_len", prefix_len, 0)
    check_whole("context_len", context_len, 0)
    check_whole("suffix_len", suffix_len, 0)
    _check_settings(
        1,
        layers=layers,
        max_chunk_len=max_chunk_len,
        target_len=target_len,
        max_initial_chunk_len=max_initial_chunk_len,
    )
    _check_settings(0, layers_warmup=layers_warmup, suffix_budget=suffix_budget)
    affix, reserved = prefix_len + suffix_len, prefix_len + max(suffix_len, suffix_budget)
    _check_lengths(context_len, suffix_len, affix, reserved, max_chunk_len, target_len)
    initial_room = (max_initial_chunk_len or 0) - reserved
    leaf_room = initial_room if initial_room > 0 else max_chunk_len - reserved
    spans, ranges = _cut(context_len, document_lens, leaf_room, layers, layers_warmup)
    room = max_chunk_len - affix
    tree = Tree(ranges, room, [end - start for start, end in spans])
    lengths, targets = tree.fill((max_chunk_len if last_look else target_len) - affix)
    root_len = affix + targets[-1][0]
    plan = MergePlan(
        prefix_len=prefix_len,
        suffix_len=suffix_len,
        spans=tuple(spans),
        layers=tuple(ranges),
        lengths=tuple(tuple(affix + n for n in row) for row in lengths),
        targets=tuple(tuple(affix + n for n in row) for row in targets),
        suffix_start=prefix_len + max(end - start for start, end in spans),
        last_len=min(target_len, root_len) if last_look else None,
    )
    anew = last_look and plan.prunes and plan.final_len <= max_chunk_len
    return dataclasses.replace(plan, reads_anew=anew)


def plan_for(
    config: ResolvedConfig, layers: int, lengths: Sequence[int], document_lens: Sequence[int] | None = None
) -> MergePlan:
    """The plan of a configuration for a model of so many layers and the lengths of prefix, context and suffix."""
    prefix_len, context_len, suffix_len = lengths
    return plan_merge(
        prefix_len,
        context_len,
        suffix_len,
        layers=layers,
        max_chunk_len=config.max_chunk_len,
        target_len=config.target_len,
        layers_warmup=config.layers_warmup,
        max_initial_chunk_len=config.max_initial_chunk_len,
        suffix_budget=config.suffix_budget,
        document_lens=document_lens,
        last_look=config.looks_again,
    )


def longer_leaf(context_len: int, reserved: int, chunk_len: int) -> int | None:
    """The longest leaf, in tokens, where up to a quarter more than a chunk halves their number; None where it does not.

    A tree has 2^height leaves, so that what fills 32 and a little more is cut into 64 that are half full, which take
    longer. At least two leaves are left.

    Args:
        reserved: tokens of prefix and suffix in every leaf, or of prefix and suffix_budget.
    """
    longest = chunk_len + chunk_len // 4
    if context_len < 1 or chunk_len <= reserved:
        return None  # which is no plan at all, as `plan_merge` will say
    height, lower = (_height(context_len, length - reserved) for length in (chunk_len, longest))
    return longest if 0 < lower < height else None


def _cut(
    context_len: int, document_lens: Sequence[int] | None, leaf_room: int, layers: int, layers_warmup: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The leaves' spans, and the layers of every level of the tree above them."""
    if document_lens is None:
        height = _height(context_len, leaf_room)
        return split_context(context_len, 2**height), layer_ranges(layers, layers_warmup, height)
    spans = split_documents(document_lens, context_len, leaf_room)
    height = max(1, (len(spans) - 1).bit_length())
    return spans, document_layer_ranges(layers, layers_warmup, height)


def _check_settings(least: int, **settings: int | None) -> None:
    for name, value in settings.items():
        if value is not None or name != "max_initial_chunk_len":
            check_whole(name, value, least, error=ConfigError)


def _height(context_len: int, leaf_room: int) -> int:
    height = (-(-context_len // leaf_room) - 1).bit_length()
    return min(height, context_len.bit_length() - 1)  # no more chunks than tokens


def _check_lengths(
    context_len: int, suffix_len: int, affix: int, reserved: int, max_chunk_len: int, target_len: int
) -> None:
    if context_len < 1:
        raise InputError("the context holds 0 tokens: give at least 1, or run the model on prefix + suffix itself")
    if suffix_len < 1:
        raise InputError("the suffix holds 0 tokens: its last token decides what is kept; give at least 1")
    if max_chunk_len - reserved < min(2, context_len):
        parts = "suffix" if reserved == affix else "suffix_budget"
        raise InputError(
            f"prefix and {parts} take {reserved} of max_chunk_len={max_chunk_len} tokens, which leaves no room for "
            f"2 tokens of context: shorten them, or raise max_chunk_len to {reserved + 2} at least"
        )
    if target_len <= affix:
        raise ConfigError(
            f"target_len={target_len} leaves no room for {affix} affix tokens: raise it above {affix} or shorten "
            f"prefix and suffix"
        )
