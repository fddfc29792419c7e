"""Measuring what finds answers: heads and significances tried on questions about short passages that ship with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from homer.calibrating.base import Measurable
from homer.calibrating.team import choose_team, hits
from homer.calibrating.trials import Passages, load_pairs
from homer.errors import CalibrationError
from homer.significance.calibration import Calibration

LONGEST_CHUNK = 2048  # tokens; heads that find in this company find in a longer one


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was measured on all questions.

    Attributes:
        question_heads, last_heads: (layers, heads), as in Calibration.
        team: (layer, head) of the heads that find most together, the best one first.
        found: significance -> share of the questions whose answer it kept.
        questions: how many there were.
    """

    question_heads: Tensor
    last_heads: Tensor
    team: list[tuple[int, int]]
    found: dict[str, float]
    questions: int


def find_heads(model: Measurable, calibration: Calibration | None = None, *, progress: bool = False) -> Findings:
    """Try every head, and every significance that can be had, on all questions.

    Passages stand together in chunks as long as the model's, 2,048 tokens at most. The context of a chunk runs once,
    and every question on top of it.

    Args:
        calibration: with means and deviations, for the standardized significance.

    Raises:
        CalibrationError: chunks that are too short for a passage and a question.
    """
    documents, asked = load_pairs()
    contexts = [(first, Passages(model, group)) for first, group in _groups(model, documents)]
    cases = [(context, question._replace(passage=question.passage - first))
             for first, context in contexts for question in asked
             if 0 <= question.passage - first < len(context.documents)]  # fmt: skip
    with torch.no_grad(), tqdm(cases, desc="trying heads", disable=not progress) as bar:
        looks = [context.look(question, calibration) for context, question in bar]
    width, right = model.decoder.heads, torch.tensor([look.right for look in looks])
    question, last = (_padded(side) for side in ([look.passages for look in looks], [look.last for look in looks]))
    team = [divmod(head, width) for head in choose_team(question, right)]
    rows = [layer * width + head for layer, head in team]
    found = {name: sum(look.kept[name] for look in looks) / len(looks) for name in looks[0].kept}
    together = [context.keeps(question, look.votes[rows].float().sum(0)) for (context, question), look in
                zip(cases, looks, strict=True)]  # fmt: skip
    found["question"] = sum(together) / len(looks)
    shares = [hits(side, right).mean(0).view(-1, width) for side in (question, last)]
    return Findings(shares[0], shares[1], team, found, len(cases))


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """(questions, heads, passages) of chunks that hold different numbers of passages."""
    most = max(row.shape[1] for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (0, most - row.shape[1])) for row in rows])


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
