"""Layers: which of a model's layers every level of a tree runs."""

from __future__ import annotations

import functools
import itertools
import logging

from homer.errors import ConfigError

logger = logging.getLogger(__name__)


def document_layer_ranges(layers: int, layers_warmup: int, height: int) -> list[tuple[int, int]]:
    """As `layer_ranges`, with leaves that run the warmup and a quarter of the rest, however high the tree is.

    That is what they run in a tree of height 3. The levels above share the other layers evenly, upper ones first.

    Raises:
        ConfigError: no layer to merge in.
    """
    _check_merging(layers, layers_warmup, height)
    leaf_layers = max(1, layers_warmup + (layers - layers_warmup) // 4)
    each, extra = divmod(layers - leaf_layers, height)
    counts = [each] * (height - extra) + [each + 1] * extra
    if not each:
        _warn_of_depth(height, extra)
    ends = [layers - sum(counts[level:]) for level in range(height + 1)]
    return list(itertools.pairwise([0, *ends]))


def layer_ranges(layers: int, layers_warmup: int, height: int) -> list[tuple[int, int]]:
    """(first, end) of the layers each level runs, leaves first.

    Merging layers are shared evenly and the leaves take what is over. In a tree with more levels than
    merging layers the upper levels get one layer each and the levels above the leaves none.

    Raises:
        ConfigError: several chunks, and no layer to merge them in.
    """
    _check_merging(layers, layers_warmup, height)
    merging = layers - layers_warmup
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


def _check_merging(layers: int, layers_warmup: int, height: int) -> None:
    if height and min(layers - layers_warmup, layers - 1) < 1:
        raise ConfigError(
            f"layers_warmup={layers_warmup} leaves none of {layers} layers to merge chunks in: lower it to "
            f"{layers - 1} at most, or raise max_chunk_len until the context fits one chunk"
        )


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
