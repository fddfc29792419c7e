"""EncodedContext: a context that has gone through the leaves' layers once, for any number of questions.

A leaf is prefix + slice + suffix under a causal mask, so the states of prefix and slice do not depend on the question.
A question runs its own few tokens on top of them; pruning and the levels above go on as ever, in `merging`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from homer.backends.base import Decoder, LayerOutput
from homer.backends.entries import Entries
from homer.config import HomerConfig, ResolvedConfig
from homer.errors import InputError
from homer.merging.chunk import Chunk
from homer.merging.merge import Walk
from homer.plan.schedule import MergePlan
from homer.reuse.states import LeafStates, kept_cache
from homer.text.documents import Document, document_numbers

_TOKENS_AT_ONCE = 65536  # of all leaves that a suffix runs on top of in one batch
_TOKENS_FETCHED = 16384  # the same where states come from other memory, while others are worked on


@dataclasses.dataclass(frozen=True)
class EncodedContext:
    """What `HomerModel.encode` gives: a context's leaves, up to where a question is needed. Immutable.

    Attributes:
        prefix_ids, context_ids: (n,) each.
        config: the settings that it was encoded with; suffix_budget is the longest suffix that it can take.
        given: the same as they were asked for, before anything was derived from the model or the context.
        document_lens: tokens of every document where leaves end with documents, else None.
        prefix: the prefix's states, the same in every leaf.
        leaves: the states of every leaf's slice.
        model, fingerprint: the name and the digest of the model that made it.
        documents, origins, system: as in Prompt and `encode`, where it was made from documents.
        reused_tokens: tokens of the context whose states came from a store.
        cached_tokens: what the usage of an answer calls cached; None: prefix and context, as they were encoded before.
    """

    prefix_ids: Tensor
    context_ids: Tensor
    config: ResolvedConfig
    document_lens: tuple[int, ...] | None
    given: HomerConfig = dataclasses.field(repr=False)
    prefix: LeafStates = dataclasses.field(repr=False)
    leaves: tuple[LeafStates, ...] = dataclasses.field(repr=False)
    model: str
    fingerprint: str
    documents: tuple[Document, ...] = dataclasses.field(default=(), repr=False)
    origins: Tensor | None = dataclasses.field(default=None, repr=False)
    system: str | None = None
    reused_tokens: int = 0
    cached_tokens: int | None = None

    def __len__(self) -> int:
        return len(self.prefix_ids) + len(self.context_ids)

    @property
    def suffix_budget(self) -> int:
        """The longest suffix that it can take, in tokens."""
        return self.config.suffix_budget

    @property
    def document_numbers(self) -> Tensor | None:
        """As in Prompt; None where it was made from token ids."""
        return None if self.origins is None else document_numbers(self.documents, self.origins)

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return self.prefix.nbytes + sum(leaf.nbytes for leaf in self.leaves)

    def to_pinned_memory(self) -> EncodedContext:
        """A copy whose leaves lie in the CPU's memory, pinned where there is a GPU, and are fetched as needed."""
        return dataclasses.replace(self, leaves=tuple(leaf.pin() for leaf in self.leaves))

    def check_suffix(self, suffix_len: int) -> None:
        """Raise InputError where a suffix is longer than the budget."""
        if suffix_len > self.suffix_budget:
            raise InputError(
                f"the suffix holds {suffix_len} tokens, but the context was encoded with suffix_budget="
                f"{self.suffix_budget}: encode it with suffix_budget={suffix_len} at least, shorten the question, or "
                f"give compress_encoded reencode=True"
            )

    def check_settings(self, **given: Any) -> None:
        """Raise InputError where anything is given that was settled when the context was encoded."""
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name} was settled when this context was encoded: leave it out, or encode it anew")


class EncodedLeaves:
    """The leaves of one question: its suffix run on top of kept states, in batches; a LeafSource of `merge`.

    Keys and values of the leaves' layers stay where they are until the root is there: only what survived the whole
    tree is gathered. The prefix's are the same in all leaves, so their average is themselves; the suffix's are
    averaged with the weights that merging would have given them.
    """

    def __init__(self, decoder: Decoder, encoded: EncodedContext, plan: MergePlan) -> None:
        self._decoder, self._encoded, self._plan = decoder, encoded, plan
        self._prefix = encoded.prefix.to(decoder.device)
        self._weights = torch.tensor(leaf_weights(plan)).to(decoder.device)  # now, while nothing waits for it
        self._suffix: list[tuple[Tensor, Tensor]] = []
        self._held: list[tuple[LeafStates, Tensor | None]] = []

    def leaves(self, walk: Walk) -> Iterator[Chunk]:
        """Every leaf after its layers and its pruning, without keys and values."""
        for indices, states, here in self._batches():
            output, pads = self._run(walk, states)
            self._add_suffix(output, indices)
            for row, (index, leaf) in enumerate(zip(indices, states, strict=True)):
                chunk = walk.prune(walk.leaf(index), self._own(output, row, pads[row], leaf), 0, 0, index)
                self._hold(leaf, here, chunk, index)
                yield chunk

    def complete(self, chunk: Chunk) -> Chunk:
        """The root with keys and values of the leaves' layers."""
        survivors = self._survivors(chunk.tokens[chunk.prefix_len : len(chunk) - chunk.suffix_len])
        joined = [self._joined(survivors, side) for side in (1, 2)]
        if chunk.entries.stack is None:
            entries = Entries(*(self._by_layer(side, tensor) for side, tensor in enumerate(joined)))
        else:
            entries = Entries.stacked(torch.stack(joined, 1).flatten(0, 1)[:, None])
        return dataclasses.replace(chunk, entries=chunk.entries.above(entries))

    def _survivors(self, tokens: Tensor) -> list[LeafStates]:
        """Of every leaf's states, those of the context tokens that came through the whole tree."""
        places = tokens - self._plan.prefix_len
        ends = torch.tensor([end for _, end in self._plan.spans])
        borders = itertools.pairwise([0, *torch.searchsorted(places.cpu(), ends).tolist()])
        found = []
        for (leaf, rows), (start, _), (a, b) in zip(self._held, self._plan.spans, borders, strict=True):
            wanted = places[a:b] - start
            found.append(leaf.take(wanted if rows is None else torch.searchsorted(rows, wanted)))
        return found

    def _by_layer(self, side: int, entries: Tensor) -> tuple[Tensor, ...]:
        """One (1, key heads, length, head dim) tensor a layer, on that layer's device."""
        devices = [states[side].device for states in self._suffix]
        layers = entries.transpose(1, 2).contiguous()
        return tuple(t[None].to(device) for t, device in zip(layers, devices, strict=True))

    def _joined(self, survivors: Sequence[LeafStates], side: int) -> Tensor:
        """(leaf layers, length, key heads, head dim): the prefix's keys or values, the survivors', the suffix's."""
        parts = [self._prefix.tensors()[side], *(leaf.tensors()[side] for leaf in survivors)]
        return torch.cat([*parts, self._mean_suffix(side)], 1)

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
            places = torch.arange(cache.get_seq_length() + plan.suffix_len, device=device)
            mask = (places >= torch.tensor(pads, device=device)[:, None]).long()
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

    def _add_suffix(self, output: LayerOutput, indices: Sequence[int]) -> None:
        weights = self._weights[indices[0] : indices[-1] + 1]
        sums = [tuple(torch.tensordot(weights.to(t.device), t.float(), 1) for t in pair) for pair in output.entries]
        if self._suffix:
            sums = [tuple(a + b for a, b in zip(*pairs, strict=True)) for pairs in zip(self._suffix, sums, strict=True)]
        self._suffix = [(key, value) for key, value in sums]

    def _mean_suffix(self, side: int) -> Tensor:
        """(leaf layers, suffix, key heads, head dim)"""
        kind = self._prefix.keys
        means = [states[side - 1].transpose(0, 1).to(kind.device, kind.dtype) for states in self._suffix]
        return torch.stack(means)


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
