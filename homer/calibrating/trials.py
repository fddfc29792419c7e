"""Questions asked of passages that run through all layers once: what every head and significance makes of them."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from homer.backends.base import LayerOutput
from homer.calibrating.base import Measurable
from homer.significance.base import Observation, Significance
from homer.significance.calibration import Calibration
from homer.significance.evidence import QuestionLook, stretches
from homer.significance.paper import Paper
from homer.significance.question import FAINT, Question
from homer.significance.scores import select
from homer.significance.sentences import number_parts
from homer.significance.standardized import Standardized
from homer.text.prompt import Prompt, PromptBuilder

KEPT = 8  # one of so many tokens is kept when significances are compared
_QUERIES = 8  # question tokens that look at a time, so that every stretch is one or a few of them


class Asked(NamedTuple):
    """A question, the number of the passage that answers it, and the answer as it stands there."""

    question: str
    passage: int
    answer: str


class Look(NamedTuple):
    """What was seen of one question.

    Attributes:
        right: the number of the passage that answers it, in its chunk.
        passages, last: (layers x heads, passages), how the votes of the question's tokens, and of the last token,
            fall on passages.
        votes: (layers x heads, context), float16, of the question's tokens.
        kept: significance -> whether it kept the answer.
    """

    right: int
    passages: Tensor
    last: Tensor
    votes: Tensor
    kept: dict[str, float]


@functools.cache
def load_pairs() -> tuple[list[dict[str, str]], list[Asked]]:
    """The passages as documents, and what is asked of them."""
    entries = json.loads((Path(__file__).parent / "pairs.json").read_text(encoding="utf-8"))
    documents = [{"title": entry["title"], "text": entry["text"]} for entry in entries]
    asked = [Asked(question, i, answer) for i, entry in enumerate(entries) for question, answer in entry["questions"]]
    return documents, asked


class Passages:
    """Passages run through all layers once, to be asked."""

    def __init__(self, model: Measurable, documents: list[dict[str, str]]) -> None:
        self.documents, self._model = documents, model
        self._builder = PromptBuilder(model.require_tokenizer("try heads"))
        self._prompt = self._builder.build("?", documents)
        ids = torch.cat([self._prompt.prefix_ids, self._prompt.context_ids])[None].to(model.decoder.device)
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        self._states = model.decoder.run(0, model.decoder.layers, ids, positions)

    def look(self, asked: Asked, calibration: Calibration | None) -> Look:
        """One question, on top of the passages."""
        decoder, start = self._model.decoder, len(self._prompt.prefix_ids)
        prompt, output = self._run(asked)
        end = start + len(prompt.context_ids)
        shown = [output.attention[layer][0, ..., start:end].float() for layer in range(decoder.layers)]
        logits = [output.observed[layer][0].float().softmax(-1)[:, None, start:end] for layer in range(decoder.layers)]
        question, last = (
            torch.cat([(x / (x.sum(-1, keepdim=True) + FAINT)).mean(1).to(side[-1].device) for x in side]).cpu()
            for side in (shown, logits)
        )  # one copy to the CPU each, since every one waits for the GPU
        kept = {name: self._survives(asked, prompt, output, rival, calibration) for name, rival
                in _rivals(calibration).items()}  # fmt: skip
        return Look(asked.passage, self._by_passage(question), self._by_passage(last), question.half(), kept)

    def keeps(self, asked: Asked, votes: Tensor) -> float:
        """Whether votes (context,) keep the whole answer where one token of eight stays: 1 or 0."""
        prompt = dataclasses.replace(self._prompt, suffix_ids=self._builder.build_affix(asked.question).suffix_ids)
        before, behind = len(prompt.prefix_ids), len(prompt.suffix_ids)
        scores = torch.nn.functional.pad(votes, (before, behind))[None]
        seen = self._seen(prompt, torch.device("cpu"), None)
        return self._stays(asked, prompt, Question(), dataclasses.replace(seen, scores=scores))

    def _by_passage(self, votes: Tensor) -> Tensor:
        """(heads, context) summed over each passage."""
        return votes @ torch.nn.functional.one_hot(self._prompt.origins[:, 0], len(self.documents)).to(votes.dtype)

    def _survives(
        self, asked: Asked, prompt: Prompt, output: LayerOutput, rival: Significance, calibration: Calibration | None
    ) -> float:
        """Whether a significance keeps the answer.

        The paper's prunes by one layer at a time: the share of the layers of the upper two thirds by which it would.
        """
        layers = self._model.decoder.layers
        looks = range(layers // 3, layers, max(1, layers // 8)) if isinstance(rival, Paper) else [layers - 1]
        seen, kept = self._seen(prompt, self._model.decoder.device, calibration), []
        for last in looks:
            logits = {layer: output.observed[layer] for layer in rival.observe(0, last + 1, layers)}
            kept.append(self._stays(asked, prompt, rival, dataclasses.replace(seen, logits=logits)))
        return sum(kept) / len(kept)

    def _run(self, asked: Asked) -> tuple[Prompt, LayerOutput]:
        """The question run on top of the passages, with every head watched."""
        decoder = self._model.decoder
        heads = {layer: tuple(range(decoder.heads)) for layer in range(decoder.layers)}
        affix = self._builder.build_affix(asked.question)
        start, count = len(affix.prefix_ids) + len(self._prompt.context_ids), len(affix.suffix_ids)
        positions = torch.arange(start, start + count, device=decoder.device)[None]
        first, end = affix.question_span
        look = QuestionLook(heads, count - end, stretches(end - first, _QUERIES))
        cache = self._states.entries.to_cache()
        ids = affix.suffix_ids[None].to(decoder.device)
        output = decoder.run_after(decoder.layers, ids, positions, cache, range(decoder.layers), question=look)
        return dataclasses.replace(self._prompt, suffix_ids=affix.suffix_ids), output

    def _seen(self, prompt: Prompt, device: torch.device, calibration: Calibration | None) -> Observation:
        """The chunk as a significance sees it, without logits."""
        ids = torch.cat(prompt.parts)
        indices = torch.arange(len(ids), device=device)[None]
        parts = number_parts(self._model.tokenizer, ids)
        sentences, passages = (None, None) if parts is None else (part[None] for part in parts)
        return Observation(
            {}, indices, indices, None, len(prompt.prefix_ids), len(prompt.suffix_ids),
            self._model.decoder.layers, calibration, sentences, passages, final=True,
        )  # fmt: skip

    def _stays(self, asked: Asked, prompt: Prompt, significance: Significance, seen: Observation) -> float:
        """Whether the answer stays where one token of eight does: 1 or 0."""
        context, start = len(prompt.context_ids), len(prompt.prefix_ids)
        total = start + context + len(prompt.suffix_ids)
        target = total - context + max(1, context // KEPT)
        scores = significance.score(seen) if seen.scores is None else seen.scores
        rows = select(significance.rank(scores, seen)[0], start, len(prompt.suffix_ids), target).cpu()
        stays = torch.zeros(total, dtype=torch.bool).index_fill_(0, rows, True)
        return float(stays[start : start + context][self._evidence(asked)].all())

    def _evidence(self, asked: Asked) -> Tensor:
        """(context tokens,), which of them state the answer."""
        number, start, end = self._prompt.origins.unbind(1)
        at = self.documents[asked.passage]["text"].index(asked.answer)
        return (number == asked.passage) & (end > at) & (start < at + len(asked.answer))


def _rivals(calibration: Calibration | None) -> dict[str, Significance]:
    """The significances beside the question's that can be had."""
    rivals: dict[str, Significance] = {"paper": Paper()}
    if calibration is not None and calibration.means is not None:
        rivals["standardized"] = Standardized()
    return rivals
