"""Measuring what finds answers: heads and significances tried on questions about short passages that ship with it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from homer.backends.base import LayerOutput, cache_of
from homer.calibrating.base import Measurable
from homer.errors import CalibrationError
from homer.significance.base import Observation, Significance
from homer.significance.calibration import Calibration
from homer.significance.evidence import QuestionLook, stretches
from homer.significance.paper import Paper
from homer.significance.question import FAINT, Question
from homer.significance.scores import select
from homer.significance.sentences import number_parts
from homer.significance.standardized import Standardized
from homer.text.prompt import Prompt, PromptBuilder

LONGEST_CHUNK = 2048  # tokens; heads that find in this company find in a longer one
KEPT = 8  # one of so many tokens is kept when significances are compared
_QUERIES = 8  # question tokens that look at a time, so that every stretch is one or a few of them


class Asked(NamedTuple):
    """A question, the number of the passage that answers it, and the answer as it stands there."""

    question: str
    passage: int
    answer: str


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was measured on all questions.

    Attributes:
        question_heads, last_heads: (layers, heads), as in Calibration.
        found: significance -> share of the questions whose answer it kept.
        questions: how many there were.
    """

    question_heads: Tensor
    last_heads: Tensor
    found: dict[str, float]
    questions: int


@functools.cache
def load_pairs() -> tuple[list[dict[str, str]], list[Asked]]:
    """The passages as documents, and what is asked of them."""
    entries = json.loads((Path(__file__).parent / "pairs.json").read_text(encoding="utf-8"))
    documents = [{"title": entry["title"], "text": entry["text"]} for entry in entries]
    asked = [Asked(question, i, answer) for i, entry in enumerate(entries) for question, answer in entry["questions"]]
    return documents, asked


def find_heads(
    model: Measurable, calibration: Calibration | None = None, *, progress: bool = False, compare: bool = True
) -> Findings:
    """Try every head, and every significance that can be had, on all questions.

    Passages stand together in chunks as long as the model's, 2,048 tokens at most. The context of a chunk runs once,
    and every question on top of it.

    Args:
        calibration: with means and deviations, for the standardized significance.
        compare: try significances too, not only heads.

    Raises:
        CalibrationError: chunks that are too short for a passage and a question.
    """
    documents, asked = load_pairs()
    contexts = [(first, _Context(model, group)) for first, group in _groups(model, documents)]
    cases = [(context, question._replace(passage=question.passage - first))
             for first, context in contexts for question in asked
             if 0 <= question.passage - first < len(context.documents)]  # fmt: skip
    tried = cases[::2] if compare else []
    with torch.no_grad(), tqdm(total=len(cases) + len(tried), desc="trying heads", disable=not progress) as bar:
        total = torch.zeros(())
        for context, question in cases:
            total = total + context.shares(question)
            bar.update()
        shares = total / len(cases)
        known = Calibration(torch.zeros(model.decoder.layers, 0), question_heads=shares[0])
        rivals = _rivals(known, calibration)
        kept = dict.fromkeys(rivals, 0.0)
        for context, question in tried:
            for name in rivals:
                kept[name] += context.keeps(question, *rivals[name])
            bar.update()
    found = {name: count / len(tried) for name, count in kept.items() if tried}
    return Findings(shares[0], shares[1], found, len(cases))


def _rivals(heads: Calibration, calibration: Calibration | None) -> dict[str, tuple[Significance, Calibration | None]]:
    """The significances that can be had, each with its calibration."""
    rivals: dict[str, tuple[Significance, Calibration | None]] = {
        "question": (Question(), heads), "paper": (Paper(), calibration)
    }  # fmt: skip
    if calibration is not None and calibration.means is not None:
        rivals["standardized"] = (Standardized(), calibration)
    return rivals


def _groups(model: Measurable, documents: Sequence[dict[str, str]]) -> Iterator[tuple[int, list[dict[str, str]]]]:
    """Documents that fit one chunk together, each group with the number of its first."""
    limit = min(LONGEST_CHUNK, model.chunk_len)
    lengths = [len(model.build_prompt("?", [document]).context_ids) for document in documents]
    affix = len(model.build_prompt("?", documents[:1]).prefix_ids) + 64
    room, first, total = limit - affix, 0, 0
    if max(lengths) > room:
        raise CalibrationError(
            f"chunks of {limit} tokens have no room for a passage of {max(lengths)} and a question: raise max_chunk_len"
        )
    for number, length in enumerate(lengths):
        if total + length > room:
            yield first, list(documents[first:number])
            first, total = number, 0
        total += length
    yield first, list(documents[first:])


class _Context:
    """Passages run through all layers once, to be asked."""

    def __init__(self, model: Measurable, documents: list[dict[str, str]]) -> None:
        self.documents, self._model = documents, model
        self._builder = PromptBuilder(model.require_tokenizer("try heads"))
        self._prompt = self._builder.build("?", documents)
        ids = torch.cat([self._prompt.prefix_ids, self._prompt.context_ids])[None].to(model.decoder.device)
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        self._states = model.decoder.run(0, model.decoder.layers, ids, positions)

    def shares(self, asked: Asked) -> Tensor:
        """(2, layers, heads): the passage's share of the votes of the question's tokens, and of the last one's."""
        decoder = self._model.decoder
        heads = {layer: tuple(range(decoder.heads)) for layer in range(decoder.layers)}
        prompt, output = self._run(asked, heads, range(decoder.layers))
        start = len(prompt.prefix_ids)
        end = start + len(prompt.context_ids)
        inside = (self._prompt.origins[:, 0] == asked.passage).float()
        rows = []
        for layer in range(decoder.layers):
            question = output.attention[layer][0, ..., start:end]
            last = output.observed[layer][0].softmax(-1)[:, None, start:end]
            mask = inside.to(question.device)
            rows.append(torch.stack([((x @ mask) / (x.sum(-1) + FAINT)).mean(-1) for x in (question, last)]))
        return torch.stack([row.to(rows[-1].device) for row in rows], 1).cpu()

    def keeps(self, asked: Asked, significance: Significance, calibration: Calibration | None) -> float:
        """Whether a significance keeps the whole answer where one token of eight stays: 1 or 0.

        The paper's prunes by one layer at a time: the share of the layers of the upper two thirds by which it would.
        """
        layers = self._model.decoder.layers
        looks = range(layers // 3, layers, max(1, layers // 8)) if isinstance(significance, Paper) else [layers - 1]
        prompt, output = self._run(asked, significance.question_heads(calibration), range(layers))
        kept = [self._stays(prompt, output, asked, significance, calibration, last + 1) for last in looks]
        return sum(kept) / len(kept)

    def _run(self, asked: Asked, heads: Mapping[int, tuple[int, ...]], layers: range) -> tuple[Prompt, LayerOutput]:
        decoder = self._model.decoder
        affix = self._builder.build_affix(asked.question)
        start, count = len(affix.prefix_ids) + len(self._prompt.context_ids), len(affix.suffix_ids)
        positions = torch.arange(start, start + count, device=decoder.device)[None]
        first, end = affix.question_span
        look = QuestionLook(heads, count - end, stretches(end - first, _QUERIES)) if heads else None
        cache = cache_of(self._states.keys, self._states.values)
        ids = affix.suffix_ids[None].to(decoder.device)
        output = decoder.run_after(decoder.layers, ids, positions, cache, layers, question=look)
        return dataclasses.replace(self._prompt, suffix_ids=affix.suffix_ids), output

    def _stays(
        self, prompt: Prompt, output: LayerOutput, asked: Asked, significance: Significance,
        calibration: Calibration | None, end: int,
    ) -> bool:  # fmt: skip
        """Whether the answer stays where a significance looks at layers 0..end-1."""
        context = len(prompt.context_ids)
        ids = torch.cat([prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids])
        places = torch.arange(len(ids), device=self._model.decoder.device)[None]
        parts = number_parts(self._model.tokenizer, ids)
        sentences, passages = (None, None) if parts is None else (part[None] for part in parts)
        layers = self._model.decoder.layers
        seen = Observation(
            {layer: output.observed[layer] for layer in significance.observe(0, end, layers)}, places, places, None,
            len(prompt.prefix_ids), len(prompt.suffix_ids), layers, calibration, sentences, passages,
            output.attention, final=True,
        )  # fmt: skip
        target = len(ids) - context + max(1, context // KEPT)
        ranks = significance.rank(significance.score(seen), seen)[0]
        rows = select(ranks, seen.prefix_len, seen.suffix_len, target).cpu()
        stays = torch.zeros(len(ids), dtype=torch.bool).index_fill_(0, rows, True)
        return bool(stays[seen.prefix_len : seen.prefix_len + context][self._evidence(asked)].all())

    def _evidence(self, asked: Asked) -> Tensor:
        """(context tokens,), which of them state the answer."""
        number, start, end = self._prompt.origins.unbind(1)
        place = self.documents[asked.passage]["text"].index(asked.answer)
        return (number == asked.passage) & (end > place) & (start < place + len(asked.answer))
