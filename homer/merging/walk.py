"""Walk: runs the nodes of one plan, whatever order they come in, and notes what survives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from homer.backends.base import Decoder, LayerOutput
from homer.backends.entries import Entries
from homer.merging.chunk import Chunk
from homer.plan.schedule import MergePlan
from homer.significance.base import Observation
from homer.significance.evidence import QuestionLook
from homer.significance.scores import attention_row, select
from homer.significance.scoring import Scoring


class Choice(NamedTuple):
    """What tokens of a chunk score (rows, length), and which of them survive (kept,); None where all do."""

    scores: Tensor | None
    kept: Tensor | None


class Walk:
    """Runs the nodes of one plan; `logits` and `relevance` are there once the root has run."""

    logits: Tensor
    relevance: Tensor

    def __init__(self, decoder: Decoder, plan: MergePlan, ids: Tensor, scoring: Scoring) -> None:
        self.decoder, self.plan, self.scoring = decoder, plan, scoring.on(decoder.device)
        self.ids = ids.to(decoder.device)
        self.survived = torch.zeros(len(ids), dtype=torch.int8, device=decoder.device)

    def run(self, chunk: Chunk, level: int, index: int) -> Chunk:
        """A merged chunk after its level's layers and its pruning."""
        if self.plan.layers[level][0] == self.plan.layers[level][1]:
            self.survived.index_fill_(0, chunk.tokens, level + 1)
            return chunk
        return self._unseen(chunk, level, index) if self.blind(level) else self.run_together([chunk], level, [index])[0]

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

    def run_together(self, chunks: list[Chunk], level: int, indices: list[int]) -> list[Chunk]:
        """Chunks of equal length after their level's layers and their pruning."""
        choices: list[Choice] = []

        # Chosen while the last layer runs, not after it: what is dropped then skips its feed-forward part. Only chunks
        # that keep as many tokens can go on as one tensor; of others all tokens go on, and are dropped afterwards.
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
        positions = torch.arange(plan.prefix_len + end - start, device=device)
        # in a short leaf as far on as in the longest: affixes are averaged, so their positions must agree
        suffix_positions = torch.arange(plan.suffix_start, plan.suffix_start + plan.suffix_len, device=device)
        positions = torch.cat([positions, suffix_positions])[None]
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
            row_seen = relevance(output.observed)
            self.relevance = row_seen if kept is None else row_seen[kept.to(row_seen.device)]
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
        known = {name: getattr(self.scoring, name) for name in ("sentences", "passages", "words", "ranks")}
        known = {name: of_all[chunk.tokens[None]] for name, of_all in known.items() if of_all is not None}
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
            **known,
        )


def relevance(observed: dict[int, Tensor]) -> Tensor:
    """The last query's attention, averaged over heads and observed layers: (length,)."""
    rows = [attention_row(logits[0]) for logits in observed.values()]
    return torch.stack([row.to(rows[0].device) for row in rows]).mean(0)


def _row(shown: dict[int, Tensor], row: int) -> dict[int, Tensor]:
    return {layer: tensor[row : row + 1] for layer, tensor in shown.items()}


def _together(rows: list[Tensor]) -> Tensor:
    """Tensors (1, ...) as one batch; one by itself is not copied."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)
