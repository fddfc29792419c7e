"""Passkey retrieval: a number hidden in text that says nothing, asked for at the end (the paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from homer.experiments.cases import Case
from homer.experiments.haystack import Haystack, Question
from homer.experiments.methods import FilePath, Setup
from homer.experiments.report import Report
from homer.experiments.retrieval import DEFAULT_DEPTHS, load_cases, make_cases, read_text, run_cases

FILLER = (
    "The meadow lies still. A cloud drifts over the hill. The brook runs down to the mill. "
    "Birds cross the field and come back. The day goes on. "
)
PASSKEY_NEW_TOKENS = 16


def passkey_cases(
    setup: Setup,
    *,
    context_lengths: Sequence[int] | None = None,
    samples: int = 10,
    depths: int = DEFAULT_DEPTHS,
    filler: FilePath | None = None,
) -> list[Case]:
    """Passkey prompts: a number of five digits, twice in one statement, in filler that is repeated.

    Args:
        setup: gives the tokenizer and the seed; the methods do not matter.
        context_lengths: tokens of the whole prompt. None: 1, 2, 4 and 8 times the model's own window.
        samples: cases of each length.
        depths: of the statement, spread evenly; samples take them in turn.
        filler: a text file in place of the sentences built in.
    """
    text = FILLER if filler is None else read_text(filler)
    haystack = Haystack(text, setup.tokenizer(), repeat=True)
    return make_cases(setup, haystack, _question, context_lengths, samples, depths)


def passkey(
    setup: Setup | None = None,
    *,
    context_lengths: Sequence[int] | None = None,
    samples: int = 10,
    depths: int = DEFAULT_DEPTHS,
    filler: FilePath | None = None,
    data: Sequence[FilePath] | FilePath | None = None,
    max_new_tokens: int = PASSKEY_NEW_TOKENS,
    progress: bool = False,
) -> Report:
    """Accuracy of every method of a setup at every length and depth; all see the same cases.

    Args:
        data: JSON lines files with prefix, context, postfix and target, in place of cases made here.
        max_new_tokens: an answer is right if the number stands in its first so many tokens.
        context_lengths, samples, depths, filler: see `passkey_cases`.

    Source: Song et al., ICLR 2024, section 4.1.
    """
    setup = setup or Setup()
    if data is None:
        cases = passkey_cases(setup, context_lengths=context_lengths, samples=samples, depths=depths, filler=filler)
    else:
        cases = load_cases(setup, data, context_lengths=context_lengths, filler=filler)
    settings = {"data": "made", "samples": samples, "depths": depths} if data is None else {"data": "read"}
    return run_cases("passkey", setup, cases, max_new_tokens=max_new_tokens, settings=settings, progress=progress)


def _question(random: Random) -> Question:
    value = str(random.randint(10000, 99999))
    statement = f"The pass key is {value}. Remember it. {value} is the pass key."
    return Question("What is the pass key?", (statement,), (value,))
