"""What `homer` does to one context, but level by level and many significances at once: leaves run only once for all.

The nodes of a level are one batch, so the context must fill its leaves equally; a test compares the result with the
library's own. Meant for measuring, where the library's depth-first order would take a process ten times as long.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from homer import Calibration, HomerModel, MergePlan, Observation, Significance
from homer.backends.base import LayerOutput, not_none
from homer.backends.entries import Affix, Entries, join, together
from homer.significance.sentences import Sentences

_LEAVES_AT_ONCE = 128


@dataclasses.dataclass(frozen=True)
class Nodes:
    """All nodes of a level.

    Attributes:
        hidden: (nodes, length, hidden size), or the token ids of leaves that have not run; None at the root.
        position_ids, tokens: (nodes, length); scores likewise, or None.
        entries: keys and values of each layer run, a row a node.
    """

    hidden: Tensor | None
    position_ids: Tensor
    tokens: Tensor
    scores: Tensor | None
    entries: Entries

    def keep(self, indices: Tensor) -> Nodes:
        """Only the tokens at `indices` (nodes, kept)."""
        return Nodes(
            None if self.hidden is None else _take(self.hidden, indices, 1),
            _take(self.position_ids, indices, 1),
            _take(self.tokens, indices, 1),
            None if self.scores is None else _take(self.scores, indices, 1),
            self.entries.each(lambda tensor: _take(tensor, indices, 2)),
        )

    def merge(self, affix: Affix) -> Nodes:
        """Neighbours joined in pairs: the affix averaged, the contexts side by side."""

        def joined(x: Tensor, dim: int) -> Tensor:
            return join(x[::2], x[1::2], dim, affix)

        return Nodes(
            None if self.hidden is None else joined(self.hidden, 1),
            joined(self.position_ids, 1),
            joined(self.tokens, 1),
            None if self.scores is None else joined(self.scores, 1),
            self.entries.each(lambda tensor: joined(tensor, 2)),
        )


class Levels:
    """One prompt, cut so that its leaves are equally long, whose leaves have run.

    Args:
        parts: prefix, context and suffix ids, (n,) each.
        plan: of exactly these lengths; see `even_plan`.
        sentences: of the model's tokenizer.
    """

    def __init__(self, model: HomerModel, parts: Sequence[Tensor], plan: MergePlan, sentences: Sentences) -> None:
        self.decoder, self.plan = model.decoder, plan
        ids = torch.cat(list(parts))
        self.ids = ids.to(self.decoder.device)
        self.sentences = sentences.number(ids).to(self.decoder.device)
        self.leaves, self.seen = self._leaves()

    def fold(self, significance: Significance, calibration: Calibration | None) -> Nodes:
        """The root after its pruning, by one significance; its suffix is the averaged one."""
        nodes, observed = self.leaves, self.seen
        for level in range(self.plan.height + 1):
            if level:
                nodes = nodes.merge((self.plan.prefix_len, self.plan.suffix_len))
                nodes, observed = self._run(nodes, level)
            nodes = self._prune(nodes, observed, level, significance, calibration)
        return nodes

    def read(self, roots: Sequence[Nodes], new_tokens: int, end: frozenset[int]) -> list[list[int]]:
        """What the model says greedily after each root, its real suffix run on top of the compressed context."""
        suffix_len, count = self.plan.suffix_len, len(roots)
        cache = together(root.entries.part(0, -suffix_len) for root in roots).to_cache()
        positions = torch.cat([root.position_ids[:, -suffix_len:] for root in roots])
        logits = self.decoder.extend(self.ids[-suffix_len:].expand(count, -1), positions, cache, keep=1)
        said: list[list[int]] = [[] for _ in roots]
        open_rows = set(range(count))
        position = positions[:, -1:]
        for _ in range(new_tokens):
            token, position = logits[:, -1].argmax(-1, keepdim=True), position + 1
            for row in list(open_rows):
                open_rows.discard(row) if int(token[row]) in end else said[row].append(int(token[row]))
            if not open_rows:
                break
            logits = self.decoder.extend(token, position, cache, keep=1)
        return said

    def _leaves(self) -> tuple[Nodes, dict[int, Tensor]]:
        plan, device = self.plan, self.ids.device
        size = plan.spans[0][1]
        prefix = torch.arange(plan.prefix_len, device=device)
        suffix = torch.arange(plan.suffix_len, device=device)
        starts = torch.arange(len(plan.spans), device=device)[:, None] * size
        context = plan.prefix_len + torch.arange(size, device=device) + starts
        affix = [x.expand(len(plan.spans), -1) for x in (prefix, suffix + len(self.ids) - plan.suffix_len)]
        tokens = torch.cat([affix[0], context, affix[1]], 1)
        positions = torch.arange(plan.suffix_start + plan.suffix_len, device=device).expand_as(tokens)
        nodes = Nodes(self.ids[tokens], positions, tokens, None, Entries())
        return self._run(nodes, 0)

    def _run(self, nodes: Nodes, level: int) -> tuple[Nodes, dict[int, Tensor]]:
        first, end = self.plan.layers[level]
        if first == end:
            return nodes, {}
        assert nodes.hidden is not None
        parts = [slice(i, i + _LEAVES_AT_ONCE) for i in range(0, len(nodes.hidden), _LEAVES_AT_ONCE)]
        outputs = [
            self.decoder.run(first, end, nodes.hidden[part], nodes.position_ids[part], range(first, end))
            for part in parts
        ]
        return _after(nodes, outputs), {
            layer: torch.cat([output.observed[layer] for output in outputs]) for layer in range(first, end)
        }

    def _prune(
        self, nodes: Nodes, observed: dict[int, Tensor], level: int, significance: Significance,
        calibration: Calibration | None,
    ) -> Nodes:  # fmt: skip
        first, end = self.plan.layers[level]
        if first == end:
            return nodes
        watched = significance.observe(first, end, self.decoder.layers)
        seen = Observation(
            logits={layer: observed[layer] for layer in watched},
            position_ids=nodes.position_ids,
            tokens=nodes.tokens,
            scores=nodes.scores,
            prefix_len=self.plan.prefix_len,
            suffix_len=self.plan.suffix_len,
            layers=self.decoder.layers,
            calibration=calibration,
            sentences=self.sentences[nodes.tokens],
        )
        scores = significance.score(seen)
        nodes = dataclasses.replace(nodes, scores=scores)
        target = self.plan.targets[level][0]
        if target == nodes.tokens.shape[1]:
            return nodes
        return nodes.keep(_select(significance.rank(scores, seen), self.plan, target))


def even_plan(
    model: HomerModel, parts: Sequence[Tensor], spare: Tensor
) -> tuple[MergePlan, tuple[Tensor, Tensor, Tensor], Tensor]:
    """A plan with equal leaves, the parts without the last spare tokens that were too many for it, and what is left.

    Args:
        spare: (context tokens,), bool, which tokens may be left out.

    Returns:
        The plan, prefix, context and suffix, and the indices (kept,) of the context that are kept.
    """
    prefix, context, suffix = parts
    kept = torch.arange(len(context))
    while True:
        plan = model.plan(len(prefix), len(kept), len(suffix))
        extra = len(kept) % len(plan.spans)
        if not extra:
            return plan, (prefix, context[kept], suffix), kept
        left_out = kept[spare[kept]][-extra:]
        kept = kept[~torch.isin(kept, left_out)]


def _after(nodes: Nodes, outputs: Sequence[LayerOutput]) -> Nodes:
    hidden = None if outputs[0].hidden_states is None else torch.cat([not_none(o.hidden_states) for o in outputs])
    entries = together(output.entries for output in outputs)
    return dataclasses.replace(nodes, hidden=hidden, entries=entries.above(nodes.entries))


def _select(ranks: Tensor, plan: MergePlan, target: int) -> Tensor:
    """(nodes, target): the affix, and the highest of the context, in order."""
    length = ranks.shape[1]
    context = ranks[:, plan.prefix_len : length - plan.suffix_len]
    best = context.topk(target - plan.prefix_len - plan.suffix_len, 1).indices.sort(1).values + plan.prefix_len
    columns = torch.arange(length, device=ranks.device).expand(len(ranks), -1)
    return torch.cat([columns[:, : plan.prefix_len], best, columns[:, length - plan.suffix_len :]], 1)


def _take(x: Tensor, indices: Tensor, dim: int) -> Tensor:
    """What stands at indices (nodes, kept) along `dim`, which is 1 or 2."""
    shape = [len(indices)] + [1] * (x.ndim - 1)
    shape[dim] = -1
    sizes = list(x.shape)
    sizes[dim] = indices.shape[1]
    return x.gather(dim, indices.view(shape).expand(sizes))
