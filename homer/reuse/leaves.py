"""KeptLeaves: leaves that were run as far as no question is needed, before it was asked."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from homer.backends.base import Decoder, LayerOutput
from homer.backends.entries import Entries
from homer.merging.chunk import Chunk
from homer.merging.leaves import Leaves
from homer.merging.walk import Walk
from homer.plan.schedule import MergePlan
from homer.reuse.encoded import EncodedContext
from homer.reuse.states import LeafStates, kept_cache

_TOKENS_AT_ONCE = 65536  # of all leaves that a suffix runs on top of in one batch
_TOKENS_FETCHED = 16384  # the same where states come from other memory, while others are worked on


class KeptLeaves(Leaves):
    """The leaves of one question: its suffix run on top of kept states, in batches.

    Keys and values of the leaves' layers stay where they are until the root is there: only what survived the whole
    tree is gathered. The prefix's are the same in all leaves, so their average is themselves; the suffix's are
    averaged with the weights that merging would have given them. That is fast, but what is held of states that were
    fetched from other memory grows with the context.

    Args:
        at_once: give every leaf its keys and values as it comes, so that memory grows with the context's logarithm.
    """

    def __init__(self, decoder: Decoder, encoded: EncodedContext, plan: MergePlan, at_once: bool = False) -> None:
        self._decoder, self._encoded, self._plan, self._at_once = decoder, encoded, plan, at_once
        self._prefix = encoded.prefix.to(decoder.device)
        self._weights = torch.tensor(leaf_weights(plan)).to(decoder.device)  # now, while nothing waits for it
        self._suffix = Entries()  # summed so far, in float32
        self._held: list[tuple[LeafStates, Tensor | None]] = []

    def chunks(self, walk: Walk) -> Iterator[Chunk]:
        """As `Leaves.chunks`; without keys and values, unless they are wanted at once."""
        for indices, states, here in self._batches():
            output, pads = self._run(walk, states)
            # summed as it comes: the suffix's keys of all leaves at once would grow with the context
            self._add_suffix(output.entries, indices)
            for row, (index, leaf) in enumerate(zip(indices, states, strict=True)):
                own = self._own(output, row, pads[row], leaf)
                if self._at_once:
                    stacked = all(k.shape == v.shape and k.device == self._decoder.device for k, v in output.entries)
                    own = dataclasses.replace(own, entries=self._entries([leaf], output.entries.row(row), stacked))
                chunk = walk.prune(walk.leaf(index), own, 0, 0, index)
                if not self._at_once:
                    self._hold(leaf, here, chunk, index)
                yield chunk

    def complete(self, root: Chunk) -> Chunk:
        """The root with keys and values of the leaves' layers."""
        if self._at_once:
            return root
        survivors = self._survivors(root.tokens[root.prefix_len : len(root) - root.suffix_len])
        entries = self._entries(survivors, self._suffix, not root.entries or root.entries.stack is not None)
        return dataclasses.replace(root, entries=root.entries.above(entries))

    def _survivors(self, tokens: Tensor) -> list[LeafStates]:
        """Of every leaf's states, those of the context tokens that came through the whole tree."""
        indices = tokens - self._plan.prefix_len
        ends = torch.tensor([end for _, end in self._plan.spans])
        borders = itertools.pairwise([0, *torch.searchsorted(indices.cpu(), ends).tolist()])
        found = []
        for (leaf, rows), (start, _), (a, b) in zip(self._held, self._plan.spans, borders, strict=True):
            wanted = indices[a:b] - start
            found.append(leaf.take(wanted if rows is None else torch.searchsorted(rows, wanted)))
        return found

    def _entries(self, context: Sequence[LeafStates], suffix: Entries, stacked: bool) -> Entries:
        """Those of the leaves' layers: the prefix's, the context's, and a suffix's, on their layers' devices."""
        kind, sides = self._prefix.keys, []
        for side in (1, 2):
            last = [layer[side - 1][0].transpose(0, 1).to(kind.device, kind.dtype) for layer in suffix]
            parts = [states.tensors()[side] for states in (self._prefix, *context)]
            sides.append(torch.cat([*parts, torch.stack(last)], 1))  # (leaf layers, length, key heads, head dim)
        if stacked:
            return Entries.stacked(torch.stack(sides, 1).flatten(0, 1)[:, None])
        keys, values = (
            tuple(layer[None].to(last[side].device) for layer, last in zip(layers, suffix, strict=True))
            for side, layers in enumerate(tensor.transpose(1, 2).contiguous() for tensor in sides)
        )
        return Entries(keys, values)

    def _batches(self) -> Iterator[tuple[list[int], list[LeafStates], bool]]:
        """Indices of leaves, their states on the model's device, and whether they lie there anyway."""
        device = self._decoder.device
        here = all(leaf.device == device for leaf in self._encoded.leaves)
        longest = self._plan.suffix_start + self._plan.suffix_len
        size = max(1, (_TOKENS_AT_ONCE if here else _TOKENS_FETCHED) // longest)
        groups = [range(a, min(a + size, len(self._plan.spans))) for a in range(0, len(self._plan.spans), size)]
        if here:
            for group in groups:
                yield list(group), [self._encoded.leaves[i] for i in group], True
        else:
            fetched = fetch_ahead([[self._encoded.leaves[i] for i in group] for group in groups], device)
            for group, states in zip(groups, fetched, strict=True):
                yield list(group), states, False

    def _run(self, walk: Walk, states: Sequence[LeafStates]) -> tuple[LayerOutput, list[int]]:
        """The suffix on top of a batch of leaves."""
        plan, device = self._plan, self._decoder.device
        cache, pads = kept_cache(self._prefix, states)
        ids = walk.ids[-plan.suffix_len :].expand(len(states), -1)
        positions = torch.arange(plan.suffix_start, plan.suffix_start + plan.suffix_len, device=device)
        mask = None
        if any(pads):
            columns = torch.arange(cache.get_seq_length() + plan.suffix_len, device=device)
            mask = (columns >= torch.tensor(pads, device=device)[:, None]).long()
        end = plan.layers[0][1]
        question = walk.question(0)
        if question is not None and mask is not None:
            question = dataclasses.replace(question, padding=mask == 0)
        looked = walk.observed(0), mask, question
        return self._decoder.run_after(end, ids, positions.expand(len(states), -1), cache, *looked), pads

    def _own(self, output: LayerOutput, row: int, pad: int, leaf: LeafStates) -> LayerOutput:
        """What one leaf would have given, had it been run whole; but for keys and values."""
        hidden = output.hidden_states
        if hidden is not None:
            parts = [self._prefix.hidden_states, leaf.hidden_states, hidden[row].to(leaf.device)]
            hidden = torch.cat(parts)[None]
        logits = None if output.logits is None else output.logits[row : row + 1]
        observed, attention = (
            {layer: t[row : row + 1, ..., pad:] for layer, t in shown.items()}
            for shown in (output.observed, output.attention)
        )
        return LayerOutput(hidden, logits, Entries(), observed, attention)

    def _hold(self, leaf: LeafStates, here: bool, chunk: Chunk, index: int) -> None:
        """Remember where a leaf's states are; of fetched ones, only what survived the leaf."""
        if here:
            self._held.append((leaf, None))
        else:
            end = len(chunk) - chunk.suffix_len
            rows = chunk.tokens[chunk.prefix_len : end] - self._plan.prefix_len - self._plan.spans[index][0]
            self._held.append((leaf.take(rows), rows))

    def _add_suffix(self, suffix: Entries, indices: Sequence[int]) -> None:
        weights = self._weights[indices[0] : indices[-1] + 1]
        added = suffix.each(lambda t: torch.tensordot(weights.to(t.device), t.float(), 1)[None])
        self._suffix = self._suffix.combine(added, torch.add) if self._suffix else added


def leaf_weights(plan: MergePlan) -> list[float]:
    """The share that each leaf has in an average of the affix at the root: a half for every merge above it."""
    weights = [1.0]
    for level in range(plan.height, 0, -1):
        weights = [
            weight / len(plan.children(level, index))
            for index, weight in enumerate(weights)
            for _ in plan.children(level, index)
        ]
    return weights


def fetch_ahead(groups: Sequence[Sequence[LeafStates]], device: torch.device) -> Iterator[list[LeafStates]]:
    """Groups of states on a device; on a GPU the next group is copied while the last one is worked on."""
    if device.type != "cuda":
        for group in groups:
            yield [states.to(device) for states in group]
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def fetch(group: Sequence[LeafStates]) -> list[LeafStates]:
        with torch.cuda.stream(stream):
            return [states.to(device) for states in group]

    coming = fetch(groups[0])
    for number in range(len(groups)):
        main = torch.cuda.current_stream(device)
        main.wait_stream(stream)
        fetched = coming
        for states in fetched:
            for tensor in states.tensors():
                tensor.record_stream(main)
        if number + 1 < len(groups):
            coming = fetch(groups[number + 1])
        yield fetched
        del fetched
