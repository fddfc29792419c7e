"""How high evidence ranks in its leaf, by variants of the standardized significance: a minute on two cores.

    python benchmarks/ranks.py --model mini --calibration FILE --held-out held_out.npz

Held-out facts stand in prompts of one chunk that run once through all layers; the tokens of all prompts together are
the competition. A fact counts where all of its tokens are above the best `budget` of so many tokens. It leaves out
what merging does to hidden states, so it tells scores apart quickly; `significance.py` has the last word.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homer import Calibration, HomerModel, Observation, Standardized, load_calibration
from homer.significance.base import Significance
from homer.significance.paper import Paper
from homer.significance.sentences import Sentences
from training.tasks import Tasks

VARIANTS: dict[str, Significance] = {
    "paper, last layer": Paper(),
    "all heads, window 1": Standardized(evidence_heads=0, whole_sentences=False, window=1),
    "all heads, window 31": Standardized(evidence_heads=0, whole_sentences=False),
    "all heads, sentences": Standardized(evidence_heads=0),
    "evidence heads 0.5, window 31": Standardized(whole_sentences=False),
    "evidence heads 0.5, window 61": Standardized(whole_sentences=False, window=61),
    "evidence heads 0.2, sentences": Standardized(evidence_heads=0.2),
    "evidence heads 0.5, sentences": Standardized(),
    "evidence heads 0.8, sentences": Standardized(evidence_heads=0.8),
    "from layer 0": Standardized(first_layer=0),
}


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts of equal length: ids, which tokens are context, which are evidence, (prompts, length) each."""

    ids: Tensor
    context: Tensor
    evidence: Tensor
    affixes: list[tuple[int, int]]


def draw(tasks: Tasks, names: Sequence[str], length: int, samples: int) -> Prompts:
    """Prompts of `length` tokens about a stretch of a held-out book that holds the evidence, a few tokens in."""
    rows = []
    for name in names:
        for seed in range(400, 400 + samples):
            case = tasks.case(name, length + 200, seed)
            prompt = case.prompt
            room = length - len(prompt.prefix_ids) - len(prompt.suffix_ids)
            evidence = _evidence(prompt, case.statement)
            first, end = int(evidence.nonzero()[0]), int(evidence.nonzero()[-1])
            start = min(max(0, first - seed * 37 % (room - (end - first) - 1)), len(evidence) - room)
            if start < 0:
                continue
            part = slice(start, start + room)
            row = torch.cat([prompt.prefix_ids, prompt.context_ids[part], prompt.suffix_ids])
            sides = len(prompt.prefix_ids), len(prompt.suffix_ids)
            marks = torch.zeros(2, length, dtype=torch.bool)
            marks[:, sides[0] : length - sides[1]] = torch.stack([torch.ones(room, dtype=torch.bool), evidence[part]])
            rows.append((row, *marks, sides))
    ids, context, evidence, affixes = zip(*rows, strict=True)
    return Prompts(torch.stack(ids), torch.stack(context), torch.stack(evidence), list(affixes))


def _evidence(prompt: Any, statement: str) -> Tensor:
    start = prompt.documents[0].text.find(statement)
    return (prompt.origins[:, 2] > start) & (prompt.origins[:, 1] < start + len(statement))


def score(model: HomerModel, calibration: Calibration, prompts: Prompts) -> dict[str, Tensor]:
    """What every variant ranks the tokens by, (prompts, length), after all layers."""
    decoder, sentences = model.decoder, Sentences(model.tokenizer)
    positions = torch.arange(prompts.ids.shape[1])[None]
    ranks: dict[str, list[Tensor]] = {name: [] for name in VARIANTS}
    for row, (prefix_len, suffix_len) in zip(prompts.ids, prompts.affixes, strict=True):
        observed = decoder.run(0, decoder.layers, row[None], positions, range(decoder.layers)).observed
        for name, significance in VARIANTS.items():
            watched = significance.observe(0, decoder.layers, decoder.layers)
            seen = Observation(
                {layer: observed[layer] for layer in watched}, positions, positions, None, prefix_len, suffix_len,
                decoder.layers, calibration, sentences.number(row)[None],
            )  # fmt: skip
            ranks[name].append(significance.rank(significance.score(seen), seen))
    return {name: torch.cat(rows) for name, rows in ranks.items()}


def share_found(ranks: Tensor, prompts: Prompts, share: float) -> float:
    """The share of prompts whose evidence is wholly within the best `share` of all tokens."""
    least = ranks[prompts.context & ~prompts.evidence].quantile(1 - share)
    return sum(float((row[marks] >= least).all()) for row, marks in zip(ranks, prompts.evidence, strict=True)) / len(
        ranks
    )


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    """Print the table and give it: for every variant a share for each length."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["one_fact", "reworded"])
    parser.add_argument("--samples", type=int, default=40, help="of each task")
    parser.add_argument("--length", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--budget", type=int, default=440, help="tokens that survive")
    parser.add_argument("--among", type=int, nargs="+", default=[8192, 32768], help="tokens of the whole context")
    options = parser.parse_args(arguments)
    model = HomerModel.from_pretrained(options.model, dtype=torch.float32)
    prompts = draw(Tasks(model, options.held_out), options.tasks, options.length, options.samples)
    ranks = score(model, load_calibration(options.calibration), prompts)
    print(f"{len(prompts.ids)} facts", *(f"{n:,}" for n in options.among), sep=" | ")
    table = {
        name: [round(share_found(values, prompts, options.budget / n), 2) for n in options.among]
        for name, values in ranks.items()
    }
    for name, shares in table.items():
        print(name, *(f"{share:.2f}" for share in shares), sep=" | ")
    return table


if __name__ == "__main__":
    main()
