"""compress: the method on one screen. Walks the plan depth-first and folds the tree as it goes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from homer.backends.base import Decoder, LayerOutput
from homer.backends.entries import Entries
from homer.merging.chunk import Chunk, merge
from homer.merging.node import Compressed, Node, Watcher
from homer.plan.schedule import MergePlan
from homer.significance.base import Observation
from homer.significance.evidence import QuestionLook
from homer.significance.scores import attention_row, select
from homer.significance.scoring import Scoring


def compress(
    decoder: Decoder,
    plan: MergePlan,
    ids: Tensor,
    scoring: Scoring | None = None,
    *,
    refresh_suffix: bool = True,
    chunk_batch_size: int = 1,
    watch: Watcher | None = None,
    source: LeafSource | None = None,
) -> Compressed:
    """Fold prefix + context + suffix (ids: (length,)) into one chunk of `plan.final_len` tokens.

    Args:
        scoring: what decides which tokens survive. None: the paper's significance, not calibrated.
        refresh_suffix: run the real suffix on top of the result, where anything was pruned.
        chunk_batch_size: equal leaves run at a time.
        watch: called after every node.
        source: where leaves come from, if not from running them here.

    Source: Song et al., ICLR 2024, algorithm 1, in depth-first order: one pending left chunk a level.
    """
    walk = Walk(decoder, plan, ids, scoring or Scoring())
    pending: list[Chunk] = []
    chunk: Chunk
    for leaf, chunk in enumerate(walk.leaves(chunk_batch_size) if source is None else source.leaves(walk)):
        _tell(watch, plan, 0, leaf, chunk, pending)
        for level, index, children in plan.completed(leaf):
            chunk = walk.run(merge(pending.pop(), chunk) if children == 2 else chunk, level, index)
            _tell(watch, plan, level, index, chunk, pending)
        pending.append(chunk)
    if source is not None:
        chunk = source.complete(chunk)
    if plan.looks_again:
        chunk = _look_again(walk, chunk)
    if plan.reads_anew:
        return _read_anew(walk, chunk)
    result = Compressed(chunk, walk.logits, walk.relevance, walk.survived)
    return _refresh(walk, result) if refresh_suffix and plan.prunes else result


class Choice(NamedTuple):
    """What tokens of a chunk score (rows, length), and which of them survive (kept,); None where all do."""

    scores: Tensor | None
    kept: Tensor | None


class LeafSource(Protocol):
    """Where leaves come from that are not run from their beginning."""

    def leaves(self, walk: Walk) -> Iterator[Chunk]:
        """Every leaf after its layers and its pruning; it may come without keys and values."""

    def complete(self, chunk: Chunk) -> Chunk:
        """The root with the keys and values that its leaves came without."""


class Walk:
    """Runs the nodes of one plan; `logits` and `relevance` are there once the root has run."""

    logits: Tensor
    relevance: Tensor

    def __init__(self, decoder: Decoder, plan: MergePlan, ids: Tensor, scoring: Scoring) -> None:
        self.decoder, self.plan, self.scoring = decoder, plan, scoring.on(decoder.device)
        self.ids = ids.to(decoder.device)
        self.survived = torch.zeros(len(ids), dtype=torch.int8, device=decoder.device)

    def leaves(self, batch_size: int) -> Iterator[Chunk]:
        """Every leaf after its layers and its pruning, up to `batch_size` of equal length run at once."""
        lengths = self.plan.lengths[0]
        for _, group in itertools.groupby(range(len(lengths)), key=lambda i: lengths[i]):
            for batch in _batches(list(group), batch_size):
                yield from self._run([self.leaf(index) for index in batch], 0, batch)

    def run(self, chunk: Chunk, level: int, index: int) -> Chunk:
        """A merged chunk after its level's layers and its pruning."""
        if self.plan.layers[level][0] == self.plan.layers[level][1]:
            self.survived.index_fill_(0, chunk.tokens, level + 1)
            return chunk
        return self._unseen(chunk, level, index) if self.blind(level) else self._run([chunk], level, [index])[0]

    def blind(self, level: int) -> bool:
        """Whether no layer from this level on is watched, nor wanted, since what survives is read anew."""
        rest = range(self.plan.layers[level][0], self.decoder.layers)
        look, watched = self.scoring.look, self.scoring.significance.observe(rest.start, rest.stop, self.decoder.layers)
        return self.plan.reads_anew and not watched and (look is None or look.within(rest) is None)

    def _unseen(self, chunk: Chunk, level: int, index: int) -> Chunk:
        """A merged chunk pruned by what is known of it, without running its level's layers."""
        scores, kept = self.choose(chunk, ({}, {}), 0, level, index)
        return self._keep(dataclasses.replace(chunk, scores=scores), kept, level)

    def _keep(self, chunk: Chunk, kept: Tensor | None, level: int) -> Chunk:
        """The chunk with the tokens that survive its level, which is noted; all where `kept` is None."""
        chunk = chunk.settled() if kept is None else chunk.keep(kept)
        self.survived.index_fill_(0, chunk.tokens, level + 1)  # an assignment would wait for the GPU
        return chunk

    def _run(self, chunks: list[Chunk], level: int, indices: list[int]) -> list[Chunk]:
        """Chunks of equal length after their level's layers and their pruning."""
        choices: list[Choice] = []

        def keep(*observed: dict[int, Tensor]) -> Tensor | None:
            rows = enumerate(zip(chunks, indices, strict=True))
            choices.extend(self.choose(chunk, observed, row, level, index) for row, (chunk, index) in rows)
            kept = [choice.kept for choice in choices if choice.kept is not None]
            return torch.stack(kept) if len(kept) == len(chunks) and len(set(map(len, kept))) == 1 else None

        inputs = _together([chunk.hidden_states for chunk in chunks])
        positions = _together([chunk.position_ids for chunk in chunks])
        first, end = self.plan.layers[level]
        question = self.question(level)
        output = self.decoder.run(first, end, inputs, positions, self.observed(level), keep, question)
        rows = enumerate(zip(chunks, indices, choices, strict=True))
        return [self.prune(chunk, output, row, level, index, choice) for row, (chunk, index, choice) in rows]

    def leaf(self, index: int) -> Chunk:
        """A leaf before any layer: its token ids stand in for hidden states."""
        plan, device = self.plan, self.ids.device
        start, end = plan.spans[index]
        prefix = torch.arange(plan.prefix_len, device=device)
        context = torch.arange(plan.prefix_len + start, plan.prefix_len + end, device=device)
        suffix = torch.arange(len(self.ids) - plan.suffix_len, len(self.ids), device=device)
        tokens = torch.cat([prefix, context, suffix])
        places = torch.arange(plan.prefix_len + end - start, device=device)
        suffix_places = torch.arange(plan.suffix_start, plan.suffix_start + plan.suffix_len, device=device)
        positions = torch.cat([places, suffix_places])[None]
        return Chunk(self.ids[tokens][None], positions, tokens, Entries(), plan.prefix_len, plan.suffix_len)

    def observed(self, level: int) -> Iterable[int]:
        """The layers at which the last query's logits are wanted."""
        first, end = self.plan.layers[level]
        if level == self.plan.height and not self.plan.reads_anew:
            return range(first, end)
        return self.scoring.significance.observe(first, end, self.decoder.layers)

    def question(self, level: int) -> QuestionLook | None:
        """The heads through which the question's tokens are watched."""
        look = self.scoring.look
        return None if look is None or not self.plan.prunes else look.within(range(*self.plan.layers[level]))

    def prune(
        self, chunk: Chunk, output: LayerOutput, row: int, level: int, index: int, choice: Choice | None = None
    ) -> Chunk:
        """Row `row` of the output as a chunk that keeps its target; at the root, the logits are noted as well."""
        hidden = chunk.hidden_states if output.hidden_states is None else output.hidden_states[row : row + 1]
        scores, kept = choice or self.choose(chunk, (output.observed, output.attention), row, level, index)
        chunk = dataclasses.replace(chunk, scores=scores).run(hidden, output.entries.row(row))
        chunk = self._keep(chunk, kept, level)
        if level == self.plan.height and not self.plan.reads_anew:
            assert output.logits is not None
            self.logits = output.logits
            relevance = _relevance(output.observed)
            self.relevance = relevance if kept is None else relevance[kept.to(relevance.device)]
        return chunk

    def choose(self, chunk: Chunk, observed: tuple[dict[int, Tensor], ...], row: int, level: int, index: int) -> Choice:
        """What a chunk's tokens score by row `row` of what was observed, and which of them survive."""
        if not self.plan.prunes:
            return Choice(None, None)
        significance, target = self.scoring.significance, self.plan.targets[level][index]
        layers = significance.observe(*self.plan.layers[level], self.decoder.layers)
        logits = {layer: observed[0][layer] for layer in layers}
        seen = self.seen(chunk, _row(logits, row), _row(observed[1], row), target)
        scores = significance.score(seen)
        if target == len(chunk):
            return Choice(scores, None)
        ranks = significance.rank(scores, seen)[0]
        return Choice(scores, select(ranks, chunk.prefix_len, chunk.suffix_len, target))

    def seen(
        self, chunk: Chunk, logits: dict[int, Tensor], attention: dict[int, Tensor], target: int, final: bool = False
    ) -> Observation:
        """What was observed of a chunk of which `target` tokens are to stay."""
        numbers = (self.scoring.sentences, self.scoring.passages)
        sentences, passages = (None if number is None else number[chunk.tokens[None]] for number in numbers)
        return Observation(
            logits=logits,
            attention=attention,
            target_len=target,
            final=final,
            position_ids=chunk.position_ids,
            tokens=chunk.tokens[None],
            scores=chunk.scores,
            prefix_len=chunk.prefix_len,
            suffix_len=chunk.suffix_len,
            layers=self.decoder.layers,
            calibration=self.scoring.calibration,
            sentences=sentences,
            passages=passages,
        )


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
    documents = None if scoring.documents is None else scoring.documents[root.tokens]
    order = None if documents is None else scoring.significance.arrange(root.scores, documents)
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
    return Compressed(chunk, output.logits, _relevance(output.observed), root.survived)


def _relevance(observed: dict[int, Tensor]) -> Tensor:
    """The last query's attention, averaged over heads and observed layers: (length,)."""
    rows = [attention_row(logits[0]) for logits in observed.values()]
    return torch.stack([row.to(rows[0].device) for row in rows]).mean(0)


def _row(shown: dict[int, Tensor], row: int) -> dict[int, Tensor]:
    return {layer: tensor[row : row + 1] for layer, tensor in shown.items()}


def _together(rows: list[Tensor]) -> Tensor:
    """Tensors (1, ...) as one batch; one by itself is not copied."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _tell(watch: Watcher | None, plan: MergePlan, level: int, index: int, chunk: Chunk, pending: list[Chunk]) -> None:
    if watch is not None:
        watch(Node(level, index, plan.lengths[level][index], chunk, tuple(pending)))
