"""What the commands of the experiments do once their options are read: homer passkey, needle, perplexity, calibrate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from homer.config import HomerConfig
from homer.errors import ConfigError, InputError
from homer.experiments.calibrating import calibrate_files, calibration_table, heads_table, save_calibration
from homer.experiments.cases import Case, write_cases
from homer.experiments.figures import draw, draw_calibration, draw_heads
from homer.experiments.methods import DEFAULT_METHODS, METHODS, Setup
from homer.experiments.needle import Needles, needle, needle_cases
from homer.experiments.passkey import passkey, passkey_cases
from homer.experiments.perplexity import Segments, perplexity
from homer.experiments.presets import PRESETS
from homer.experiments.report import Report
from homer.text.files import is_among


def run_passkey(options: SimpleNamespace) -> int:
    """The command homer passkey."""
    setup = make_setup(options, chat=True)
    made = {name: getattr(options, name) for name in ("context_lengths", "samples", "depths", "filler")}
    if options.write_data:
        _check_not_read(options)
        return _write(options.write_data, passkey_cases(setup, **made))
    shared = {"max_new_tokens": options.max_tokens, "progress": not options.no_progress}
    return _finish(passkey(setup, data=options.data, **made, **shared), options.out)


def run_needle(options: SimpleNamespace) -> int:
    """The command homer needle."""
    setup = make_setup(options, chat=True)
    needles = Needles(options.needle, options.question, options.keys, options.values)
    chosen = None if needles == Needles() else needles
    made: dict[str, Any] = {name: getattr(options, name) for name in ("context_lengths", "samples", "depths")}
    made |= {"needles": chosen, "repeat": options.repeat_haystack}
    if options.haystack is None and not options.data:
        raise InputError("no haystack: give a file or folder with text, or --data")
    if options.write_data:
        _check_not_read(options)
        return _write(options.write_data, needle_cases(setup, options.haystack, **made))
    shared = {"max_new_tokens": options.max_tokens, "progress": not options.no_progress}
    return _finish(needle(setup, options.haystack, data=options.data, **made, **shared), options.out)


def run_perplexity(options: SimpleNamespace) -> int:
    """The command homer perplexity."""
    report = perplexity(
        make_setup(options, chat=False),
        options.texts,
        context_lengths=options.context_lengths,
        samples=options.samples,
        segments=Segments(options.segment_len, options.affix_len),
        progress=not options.no_progress,
    )
    return _finish(report, options.out)


def run_calibrate(options: SimpleNamespace) -> int:
    """The command homer calibrate."""
    if options.out is None:
        raise ConfigError("nowhere to write the calibration: give a folder by --out")
    options.method = options.method or ["homer"]
    setup = make_setup(options, chat=options.chat)
    chosen = {name: getattr(options, name) for name in ("segments", "segment_len", "prompts", "heads")}
    calibration = calibrate_files(setup, options.texts, **chosen, progress=not options.no_progress)
    print(calibration_table(calibration))
    if options.heads:
        print(f"\n{heads_table(calibration)}")
    path = save_calibration(calibration, options.out, setup.to_dict() | chosen)
    print(f"\n{path}: give it by --calibration")
    _try_to_draw(lambda: draw_calibration(calibration, options.out / "calibration.png"))
    if options.heads:
        _try_to_draw(lambda: draw_heads(calibration, options.out / "heads.png"))
    return 0


def make_setup(options: SimpleNamespace, chat: bool) -> Setup:
    """The setup that parsed options ask for: the preset's, overridden by what was given."""
    chosen: dict[str, Any] = PRESETS[options.preset].setup(chat) if options.preset else {"methods": DEFAULT_METHODS}
    names = {"model": "model", "method": "methods", "scale": "scale", "dtype": "dtype", "device": "device"}
    given = {field: getattr(options, name) for name, field in names.items() if getattr(options, name) is not None}
    fields = [field.name for field in dataclasses.fields(HomerConfig)]
    settings = {name: getattr(options, name) for name in fields if getattr(options, name) is not None}
    chosen["settings"] = chosen.get("settings", {}) | settings
    return Setup(
        **(chosen | given), calibration=_calibrations(getattr(options, "calibration", None)), seed=options.seed
    )


def _calibrations(given: Sequence[str] | None) -> Any:
    """A file for every method, or {method: file}."""
    pairs = [item.partition("=") for item in given or []]
    named = {name: file for name, _, file in pairs if file and name in METHODS}
    if len(pairs) == 1 and not named:
        return pairs[0][0] if not pairs[0][2] else "".join(pairs[0])
    if len(named) < len(pairs):
        raise ConfigError("several calibrations need the method of each: --calibration homer=FILE homer-yarn=FILE")
    return named or None


def _check_not_read(options: SimpleNamespace) -> None:
    if options.data:
        raise InputError("cases that are read by --data need not be written: leave --data or --write-data out")
    read = [path for name in ("filler", "haystack") if (path := getattr(options, name, None))]
    if is_among(options.write_data, read):
        raise InputError(f"--write-data {options.write_data} is one of the files that are read: give another file")


def _write(path: Path, cases: list[Case]) -> int:
    write_cases(path, cases)
    print(f"{len(cases)} cases written to {path}: run them by --data {path}")
    return 0


def _finish(report: Report, out: Path | None) -> int:
    """Print the table; write JSON, CSV and the figure."""
    print(report.table())
    if out is not None:
        report.save(out)
        _try_to_draw(lambda: draw(report, out / f"{report.experiment}.png"))
    return 0


def _try_to_draw(make: Callable[[], Path]) -> None:
    """Without matplotlib there is no figure, but a note; all else is there."""
    try:
        make()
    except InputError as error:
        print(f"no figure: {error}")
