"""How much memory a compression takes: the walk over a plan, counted and not run."""

from __future__ import annotations

from typing import Any

from homer.plan.schedule import MergePlan


def peak_bytes(plan: MergePlan, entry_bytes: int, working_bytes: int, batch: int = 1) -> int:
    """The most bytes above the weights that `compress` holds at a time.

    Args:
        entry_bytes: of one token's key and value in one layer.
        working_bytes: of one token's activations while a layer runs.
        batch: leaves that run at a time.
    """

    def size(level: int, count: int, layers: int) -> int:
        return count * (layers * entry_bytes + (working_bytes if level >= 0 else 0))

    pending: list[int] = []
    peak, batch = 0, min(batch, len(plan.spans))
    for leaf in range(len(plan.spans)):
        kept = _kept(plan, 0, entry_bytes)
        waiting = kept * (batch - 1 - leaf % batch)  # the others of its batch, which have run by now
        if leaf % batch == 0:
            running = size(0, batch * max(plan.lengths[0]), plan.layers[0][1])
            peak = max(peak, sum(pending) + running + batch * kept)
        for level, index, children in plan.completed(leaf):
            below = kept + (pending.pop() if children == 2 else 0)
            first, end = plan.layers[level]
            length = plan.lengths[level][index]
            joining = below + size(-1, length, first)  # both children, and the chunk that they become
            kept = _kept(plan, level, entry_bytes)
            peak = max(peak, sum(pending) + waiting + max(joining, size(level, length, end) + kept))
        pending.append(kept)
    return peak


def _kept(plan: MergePlan, level: int, entry_bytes: int) -> int:
    """The bytes of a node once it is pruned."""
    return max(plan.targets[level]) * plan.layers[level][1] * entry_bytes


def bytes_of(config: Any, dtype_bytes: int) -> tuple[int, int]:
    """(entry, working) bytes of one token, by a text configuration of transformers."""
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    wide = 6 * config.hidden_size + 3 * config.intermediate_size  # the stream, queries, keys, values; gate, up, product
    return 2 * key_heads * head_dim * dtype_bytes, wide * dtype_bytes
