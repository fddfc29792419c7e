"""Retrieval: ask every method the same cases, and score what it says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm.auto import tqdm

from homer.base.arguments import check_whole
from homer.errors import ConfigError
from homer.experiments.cases import Case, CaseTokenizer, read_cases
from homer.experiments.haystack import Haystack, Question, depths_of
from homer.experiments.methods import FilePath, Method, Setup, open_methods
from homer.experiments.report import Report
from homer.text.files import read_documents

logger = logging.getLogger(__name__)

WINDOWS = (1, 2, 4, 8)
DEFAULT_DEPTHS = 10


def make_cases(
    setup: Setup,
    haystack: Haystack,
    ask: Callable[[Random], Question],
    context_lengths: Sequence[int] | None,
    samples: int,
    depths: int,
) -> list[Case]:
    """`samples` cases of every length, spread over `depths` depths; the seed and the haystack decide them.

    Raises:
        ConfigError: no lengths, or fewer than one sample or depth.
    """
    lengths = default_lengths(setup, WINDOWS) if context_lengths is None else list(dict.fromkeys(context_lengths))
    for name, value in (("samples", samples), ("depths", depths), ("context_lengths", min(lengths, default=0))):
        check_whole(name, value, 1, error=ConfigError)
    spread = depths_of(min(depths, samples))
    cases = []
    for length in lengths:
        for sample in range(samples):
            random = Random(f"{setup.seed} {length} {sample}")
            cases.append(haystack.case(ask(random), length, spread[sample % len(spread)], random))
    return cases


def default_lengths(setup: Setup, windows: Iterable[int]) -> list[int]:
    """Multiples of the model's own window."""
    window = setup.window()
    return [window * n for n in windows]


def load_cases(setup: Setup, files: Sequence[FilePath] | FilePath, **made: Any) -> list[Case]:
    """The cases of some data files, for the tokenizer of a setup.

    Raises:
        ConfigError: something in `made`, which is for cases made on the spot, is given as well.
    """
    given = [name for name, value in made.items() if value is not None]
    if given:
        raise ConfigError(f"{given[0]} is for cases made on the spot, these are read from data: leave one out")
    files = [files] if isinstance(files, str) or not isinstance(files, Sequence) else files
    tokenizer = CaseTokenizer(setup.tokenizer())
    return [case for file in files for case in read_cases(file, tokenizer)]


def run_cases(
    experiment: str,
    setup: Setup,
    cases: Sequence[Case],
    *,
    max_new_tokens: int,
    settings: dict[str, Any],
    progress: bool = False,
) -> Report:
    """Answer every case by every method.

    A length at which a method runs out of GPU memory is left at that, and has None for its accuracy.
    """
    start = time.perf_counter()
    tokenizer = CaseTokenizer(setup.tokenizer())
    outcomes: list[dict[str, Any]] = []
    resolved: dict[str, Any] = {}
    with tqdm(total=len(setup.methods) * len(cases), desc=experiment, unit="case", disable=not progress) as bar:
        for method in open_methods(setup):
            bar.set_postfix_str(method.name)
            resolved[method.name] = method.facts()
            outcomes += _run_method(method, cases, tokenizer, max_new_tokens, bar)
    outcomes.sort(key=lambda outcome: setup.methods.index(outcome["method"]))
    lengths = sorted({case.length for case in cases})
    chosen = setup.to_dict() | {"context_lengths": lengths, "max_new_tokens": max_new_tokens} | settings
    chosen["resolved"] = resolved
    return Report(experiment, "accuracy", chosen, _rows(outcomes), tuple(outcomes), time.perf_counter() - start)


def _run_method(
    method: Method, cases: Sequence[Case], tokenizer: CaseTokenizer, max_new_tokens: int, bar: Any
) -> list[dict[str, Any]]:
    outcomes, too_long = [], float("inf")
    for number, case in enumerate(cases):
        facts = {"method": method.name, "case": number, "length": case.length, "depth": case.depth}
        facts["targets"] = list(case.targets)
        if case.length < too_long:
            try:
                outcomes.append(facts | _answer(method, case, tokenizer, max_new_tokens))
            except torch.OutOfMemoryError:
                logger.warning("%s ran out of memory at %d tokens", method.name, case.length)
                too_long = case.length
        if case.length >= too_long:
            outcomes.append(facts | {"found": None, "error": "out of memory"})
        bar.update()
    return outcomes


def _answer(method: Method, case: Case, tokenizer: CaseTokenizer, max_new_tokens: int) -> dict[str, Any]:
    parts = tokenizer.tokenize(case)
    start = time.perf_counter()
    said, kept = method.answer(*parts, max_new_tokens)
    seconds = round(time.perf_counter() - start, 3)
    return {"said": said, "found": case.found(said), "tokens": sum(map(len, parts)), "kept": kept, "seconds": seconds}


def _rows(outcomes: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Mean share of targets found, for each method, length and depth."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome["method"], outcome["length"], outcome["depth"]), []).append(outcome)
    rows = []
    for (method, length, depth), group in groups.items():
        found = [outcome["found"] for outcome in group]
        accuracy = None if None in found else round(sum(found) / len(found), 4)
        rows.append({"method": method, "length": length, "depth": depth, "samples": len(group), "accuracy": accuracy})
    return tuple(rows)


def read_text(path: FilePath) -> str:
    """The text of a file or folder that `homer ask` can read."""
    return "\n\n".join(document["text"] for document in read_documents([Path(path)]))
