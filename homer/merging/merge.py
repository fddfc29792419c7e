"""compress: the method on one screen. Walks the plan depth-first and folds the tree as it goes."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from homer.backends.base import Decoder
from homer.backends.devices import Replicas
from homer.merging.chunk import Chunk, merge
from homer.merging.leaves import Leaves, WholeLeaves
from homer.merging.node import Compressed, Node, Watcher
from homer.merging.spread import spread
from homer.merging.walk import Walk, relevance
from homer.plan.schedule import MergePlan
from homer.significance.scores import select
from homer.significance.scoring import Scoring


def compress(
    decoder: Decoder,
    plan: MergePlan,
    ids: Tensor,
    scoring: Scoring | None = None,
    leaves: Leaves | None = None,
    *,
    refresh_suffix: bool = True,
    watch: Watcher | None = None,
    replicas: Replicas | None = None,
) -> Compressed:
    """Fold prefix + context + suffix (ids: (length,)) into one chunk of `plan.final_len` tokens.

    Args:
        scoring: what decides which tokens survive. None: the paper's significance, not calibrated.
        leaves: where the leaves come from. None: they are run whole, one at a time.
        refresh_suffix: run the real suffix on top of the result, where anything was pruned.
        watch: called after every node.
        replicas: the decoder, and its copies on other devices that take their share of the tree.

    Source: Song et al., ICLR 2024, algorithm 1, in depth-first order: one pending left chunk a level.
    """
    walk = Walk(decoder, plan, ids, scoring or Scoring())
    leaves = leaves or WholeLeaves()
    batches = leaves.batches(plan) if replicas is not None and plan.height else []
    if replicas is not None and batches:
        chunk = spread(replicas, walk, leaves, batches, watch)
    else:
        chunk = _fold(walk, leaves, watch)
    chunk = leaves.complete(chunk)
    if plan.looks_again:
        chunk = _look_again(walk, chunk)
    if plan.reads_anew:
        return _read_anew(walk, chunk)
    result = Compressed(chunk, walk.logits, walk.relevance, walk.survived)
    return _refresh(walk, result) if refresh_suffix and plan.prunes else result


def _fold(walk: Walk, leaves: Leaves, watch: Watcher | None) -> Chunk:
    """The root of the tree, depth first."""
    plan, pending = walk.plan, list[Chunk]()  # left chunks that wait: one a level, as the ones of a binary number
    chunk: Chunk
    for leaf, chunk in enumerate(leaves.chunks(walk)):
        _tell(watch, plan, 0, leaf, chunk, pending)
        for level, index, children in plan.completed(leaf):
            chunk = walk.run(merge(pending.pop(), chunk) if children == 2 else chunk, level, index)
            _tell(watch, plan, level, index, chunk, pending)
        pending.append(chunk)
    return chunk


def _look_again(walk: Walk, root: Chunk) -> Chunk:
    """The root with only the tokens that survive a last look at all of it, through all heads that count.

    On the way up a token was seen by the heads of its level alone, in the company of its own leaf.
    """
    significance, plan = walk.scoring.significance, walk.plan
    suffix, positions = walk.ids[None, -plan.suffix_len :], root.position_ids[:, -plan.suffix_len :]
    output = walk.decoder.replace_last(root.entries, suffix, positions, question=walk.scoring.look)
    seen = walk.seen(root, {}, output.attention, plan.final_len, final=True)
    scores = significance.score(seen)
    kept = select(significance.rank(scores, seen)[0], plan.prefix_len, plan.suffix_len, plan.final_len)
    walk.survived.index_fill_(0, root.tokens, plan.height)
    chunk = dataclasses.replace(root, scores=scores).keep(kept)
    walk.survived.index_fill_(0, chunk.tokens, plan.height + 1)
    return chunk


def _read_anew(walk: Walk, root: Chunk) -> Compressed:
    """The survivors run through all layers once more, side by side at the positions of a short prompt.

    Their keys and values still speak of what stood around them, at positions that overlap: a model picks the right
    ones, and then reads them badly. Beside the leaves this costs little; this library's own addition.
    """
    root = _arranged(walk.scoring, root)
    decoder, ids = walk.decoder, walk.ids.index_select(0, root.tokens)[None]
    positions = torch.arange(len(root), device=ids.device)[None]
    output = decoder.run(0, decoder.layers, ids, positions)
    assert output.logits is not None
    assert root.scores is not None
    chunk = dataclasses.replace(root, entries=output.entries, position_ids=positions)
    return Compressed(chunk, output.logits, root.scores.mean(0), walk.survived)


def _arranged(scoring: Scoring, root: Chunk) -> Chunk:
    """The root's tokens and scores in the order in which they are to be read anew."""
    assert root.scores is not None
    documents, words = (None if x is None else x[root.tokens] for x in (scoring.documents, scoring.words))
    order = None if documents is None else scoring.significance.arrange(root.scores, documents, words)
    if order is None:
        return root
    return dataclasses.replace(root, tokens=root.tokens[order], scores=root.scores[:, order])


def _refresh(walk: Walk, root: Compressed) -> Compressed:
    """Replace the averaged suffix by the real one, run through all layers on top of the compressed context.

    Better than the average at the cost of one short forward pass; this library's own addition.
    """
    chunk, count, decoder = root.chunk, walk.plan.suffix_len, walk.decoder
    suffix, positions = walk.ids[None, -count:], chunk.position_ids[:, -count:]
    upper = range(walk.plan.layers[0][1] if walk.plan.height else 0, decoder.layers)  # a single leaf runs all
    output = decoder.replace_last(chunk.entries, suffix, positions, upper)
    assert output.logits is not None
    chunk = dataclasses.replace(chunk, entries=output.entries)
    return Compressed(chunk, output.logits, relevance(output.observed), root.survived)


def _tell(watch: Watcher | None, plan: MergePlan, level: int, index: int, chunk: Chunk, pending: list[Chunk]) -> None:
    if watch is not None:
        watch(Node(level, index, plan.lengths[level][index], chunk, tuple(pending)))
