"""What `homer` does to a tree, for many trees at once and with gradients: run, score, prune, merge, and read.

It is checked against `homer` itself in tests. Every chunk is padded to one width, so that trees of
different prefixes, slices and questions fit one tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from homer.backends.entries import sources
from homer.plan.layers import layer_ranges
from training.network import FIRST_EVIDENCE_LAYER, answer_loss, evidence_loss, read_layer, run_layer
from training.trees import LEAVES, QUESTIONS, READING

_FORCED = 1e4


@dataclasses.dataclass(frozen=True)
class Functions:
    """The functions that run on every layer, as they are or compiled."""

    run: Callable[..., Any] = run_layer
    read: Callable[..., Any] = read_layer
    evidence: Callable[..., Any] = evidence_loss
    answer: Callable[..., Any] = answer_loss


@dataclasses.dataclass(frozen=True)
class Shape:
    """A tree: the layers of each level, and which chunks of a level merge into those of the next."""

    layers: tuple[tuple[int, int], ...]
    pairs: tuple[tuple[tuple[int, int], ...], ...]


@dataclasses.dataclass(frozen=True)
class TreeBatch:
    """A batch of training.trees.Tree as tensors."""

    leaves: Tensor
    owners: Tensor
    lengths: Tensor
    reading: Tensor
    answer: Tensor
    asked: Tensor
    known: Tensor


@dataclasses.dataclass(frozen=True)
class Level:
    """All chunks of one level.

    Attributes:
        hidden: (trees, chunks, width, hidden size); positions, owners: (trees, chunks, width).
        prefix, context, suffix: (trees,) tokens that each chunk holds.
    """

    hidden: Tensor
    positions: Tensor
    owners: Tensor
    prefix: Tensor
    context: Tensor
    suffix: Tensor

    def inside(self) -> Tensor:
        """(trees, width), whether a column holds a token of the documents."""
        column = torch.arange(self.hidden.shape[2], device=self.hidden.device)
        return (column >= self.prefix[:, None]) & (column < (self.prefix + self.context)[:, None])


@dataclasses.dataclass(frozen=True)
class Result:
    """Losses, and what came out: answers wholly right and share of the fact that survived, (trees, questions) each."""

    answer: Tensor
    evidence: Tensor
    reading: Tensor
    right: Tensor
    survived: Tensor


def exact_shape(layers: int, layers_warmup: int, chunks: int) -> Shape:
    """The perfect binary tree of `chunks` leaves, as the library plans it."""
    height = chunks.bit_length() - 1
    pairs = tuple(tuple((2 * i, 2 * i + 1) for i in range(chunks >> level)) for level in range(1, height + 1))
    return Shape(tuple(layer_ranges(layers, layers_warmup, height)), pairs)


def draw_shape(random: Random, layers: int, layers_warmup: int, height: int) -> Shape:
    """A tree of any height from `LEAVES` leaves.

    Three levels halve the chunks. In a higher tree the first half of the leaves merge with the second
    half again and again, which merge among themselves meanwhile and so stand for the rest of the tree.
    """
    half = LEAVES // 2
    pairs = exact_shape(layers, layers_warmup, LEAVES).pairs
    if height != len(pairs):
        own = [(i, half + i) for i in range(half)]
        others = [(half + (i + 1) % half, half + (i + 2) % half) for i in range(half)]
        pairs = ((*own, *others),) * (height - half.bit_length() + 1) + pairs[-2:]
    turned = tuple(tuple((b, a) if random.random() < 0.5 else (a, b) for a, b in level) for level in pairs)
    return Shape(tuple(layer_ranges(layers, layers_warmup, height)), turned)


def forward(model: Any, trees: TreeBatch, shape: Shape, forced: Tensor, max_chunk_len: int, use: Functions) -> Result:
    """Compress every tree and read the answer from what is left.

    Args:
        forced: (trees,), whether the fact that is asked for first survives whatever its significance, as the
            facts of the other questions do.
    """
    level = _leaves(model, trees)
    caches: list[list[tuple[Tensor, Tensor]]] = []
    origins: list[Tensor] = []
    losses: list[Tensor] = []
    for pairs, (first, end) in zip([*shape.pairs, None], shape.layers, strict=True):
        level, scores, cache = _run(model, level, first, end, losses, use)
        caches.append(cache)
        if pairs is not None:
            scores = scores + _FORCED * ((forced[:, None, None] & (level.owners > 0)) | (level.owners > 1))
            level, origin = _merge(level, scores, pairs, max_chunk_len)
            origins.append(origin)
    gathered = _gather(caches, origins)
    numbers = torch.arange(1, QUESTIONS + 1, device=forced.device)
    held = (trees.owners.flatten(1)[:, None] == numbers[:, None]).sum(2).clamp_min(1)
    wanted = level.owners[:, :1] == numbers[:, None]
    survived = wanted.sum(2) / held
    hidden, reading = _read(model, trees, level, gathered, wanted, use)
    readable = (survived >= 0.9) | ~trees.known
    counted = (trees.answer & readable[..., None]).flatten(0, 1).float()
    answer, right = use.answer(
        model, hidden.view(-1, READING, hidden.shape[2]), trees.reading.flatten(0, 1).long(), counted
    )
    whole = (right | ~trees.answer.flatten(0, 1)[:, 1:]).all(1).view(-1, QUESTIONS)
    return Result(answer, torch.stack(losses).mean(), reading, whole, survived)


def _leaves(model: Any, trees: TreeBatch) -> Level:
    hidden = model.model.embed_tokens(trees.leaves.long())
    prefix, context, suffix = trees.lengths.long().unbind(1)
    positions = torch.arange(hidden.shape[2], device=hidden.device).expand(hidden.shape[:3])
    return Level(hidden, positions, trees.owners, prefix, context, suffix)


def _run(
    model: Any, level: Level, first: int, end: int, losses: list[Tensor], use: Functions
) -> tuple[Level, Tensor, list[tuple[Tensor, Tensor]]]:
    """The level after its layers; significance (trees, chunks, width); each layer's keys and values."""
    count, chunks = level.hidden.shape[:2]
    hidden = level.hidden.flatten(0, 1)
    rotary = model.model.rotary_emb(hidden, level.positions.flatten(0, 1))
    last = (level.prefix + level.context + level.suffix - 1).repeat_interleave(chunks)[:, None]
    inside, wanted = level.inside().repeat_interleave(chunks, 0), level.owners.flatten(0, 1)[:, None] == 1
    cache = []
    for number in range(first, end):
        hidden, looks, keys, values = use.run(model.model.layers[number], hidden, rotary, last)
        cache.append((keys.view(count, chunks, *keys.shape[1:]), values.view(count, chunks, *values.shape[1:])))
        if number >= FIRST_EVIDENCE_LAYER:
            losses.append(use.evidence(looks, inside, wanted))
    scores = looks.detach()[:, :, 0].amax(1).view(count, chunks, -1)
    return dataclasses.replace(level, hidden=hidden.view(count, chunks, *hidden.shape[1:])), scores, cache


def _merge(level: Level, scores: Tensor, pairs: Sequence[tuple[int, int]], width: int) -> tuple[Level, Tensor]:
    """The next level before its layers, and where each of its tokens stood: (trees, chunks, width) of chunk x width."""
    keep = torch.minimum(level.context, (width - level.prefix - level.suffix) // 2)
    order = _order(level, scores, keep)
    left, right = (torch.tensor(side, device=order.device) for side in zip(*pairs, strict=True))
    column = torch.arange(width, device=order.device).expand(len(keep), width)
    affix = level.prefix[:, None], level.suffix[:, None]
    *rows, share, _ = sources(column, affix, (keep[:, None], keep[:, None]))
    indices = (row.clamp(max=order.shape[2] - 1)[:, None].expand(-1, len(pairs), -1) for row in rows)
    a, b = (order[:, side].gather(2, index) for side, index in zip((left, right), indices, strict=True))
    from_left = column < affix[0] + keep[:, None]

    def join(x: Tensor) -> Tensor:
        return torch.where(_like(from_left, x), _take(x[:, left], a), _take(x[:, right], b))

    mean = (_take(level.hidden[:, left], a) + _take(level.hidden[:, right], b)) / 2
    hidden = torch.where(_like((share == 0.5) & ~from_left, level.hidden), mean, join(level.hidden))
    size = level.hidden.shape[2]
    origin = torch.where(from_left[:, None], left[:, None] * size + a, right[:, None] * size + b)
    merged = Level(hidden, join(level.positions), join(level.owners), level.prefix, 2 * keep, level.suffix)
    return dataclasses.replace(merged, owners=merged.owners * merged.inside()[:, None]), origin


def _order(level: Level, scores: Tensor, keep: Tensor) -> Tensor:
    """(trees, chunks, width), the columns of the survivors in order, then those of the rest."""
    column = torch.arange(scores.shape[2], device=scores.device)
    inside = level.inside()[:, None]
    rank = scores.masked_fill(~inside, -torch.inf).argsort(dim=2, descending=True, stable=True).argsort(2)
    total = (level.prefix + level.context + level.suffix)[:, None, None]
    kept = torch.where(inside, rank < keep[:, None, None], column < total)
    return torch.where(kept, column, column + scores.shape[2]).argsort(2)


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(2, index if x.ndim == 3 else index[..., None].expand(-1, -1, -1, x.shape[3]))


def _like(mask: Tensor, x: Tensor) -> Tensor:
    """(trees, width) as a mask for (trees, chunks, width, ...)."""
    return mask[:, None] if x.ndim == 3 else mask[:, None, :, None]


def _gather(caches: list[list[tuple[Tensor, Tensor]]], origins: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Every layer's keys and values of the root's tokens: (trees, width, heads x head dim) each."""
    layers: list[tuple[Tensor, Tensor]] = []
    index: Tensor | None = None
    for number in range(len(caches) - 1, -1, -1):
        if number < len(origins):
            origin = origins[number].flatten(1)
            index = origin if index is None else origin.gather(1, index)
        layers = [_pick(k, v, index) for k, v in caches[number]] + layers
    return layers


def _pick(keys: Tensor, values: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    if index is None:
        return keys.flatten(1, 2), values.flatten(1, 2)
    wide = index[..., None].expand(-1, -1, keys.shape[3])
    return keys.flatten(1, 2).gather(1, wide), values.flatten(1, 2).gather(1, wide)


def _read(
    model: Any, trees: TreeBatch, root: Level, cache: list[tuple[Tensor, Tensor]], wanted: Tensor, use: Functions
) -> tuple[Tensor, Tensor]:
    """Hidden states (trees, questions x READING, hidden size) behind the cache, and the evidence loss over it.

    All questions of a tree run as one sequence, in which none sees another.
    """
    prefix, context, _ = trees.lengths.long().unbind(1)
    column = torch.arange(QUESTIONS * READING, device=prefix.device)
    positions = (prefix + context)[:, None] + column % READING
    hidden = model.model.embed_tokens(trees.reading.flatten(1).long())
    rotary = model.model.rotary_emb(hidden, positions)
    inside = root.inside()
    cached = torch.arange(inside.shape[1], device=prefix.device) < (root.prefix + root.context)[:, None]
    own = (column[:, None] >= column) & (column[:, None] // READING == column // READING)
    mask = torch.cat([cached[:, None].expand(-1, len(column), -1), own.expand(len(prefix), -1, -1)], 2)[:, None]
    last = (torch.arange(QUESTIONS, device=prefix.device) * READING + trees.asked.long() - 1).clamp_min(0)
    losses = []
    for number, layer in enumerate(model.model.layers):
        hidden, looks = use.read(layer, hidden, rotary, cache[number], mask, last)
        if number >= FIRST_EVIDENCE_LAYER:
            losses.append(use.evidence(looks, inside, wanted))
    return hidden, torch.stack(losses).mean()
