"""The command line of the experiments: homer passkey, needle, perplexity, calibrate."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homer.config import HomerConfig
from homer.errors import ConfigError, InputError
from homer.experiments.calibrating import calibrate_files, calibration_table, heads_table, save_calibration
from homer.experiments.cases import Case, write_cases
from homer.experiments.figures import draw, draw_calibration, draw_heads
from homer.experiments.methods import DEFAULT_METHODS, METHODS, Setup
from homer.experiments.needle import NEEDLE_NEW_TOKENS, Needles, needle, needle_cases
from homer.experiments.passkey import PASSKEY_NEW_TOKENS, passkey, passkey_cases
from homer.experiments.perplexity import AFFIX_LEN, Segments, perplexity
from homer.experiments.presets import PRESETS
from homer.experiments.report import Report
from homer.experiments.retrieval import DEFAULT_DEPTHS
from homer.text.files import is_among


def add_commands(commands: Any) -> None:
    """Add the experiments to an argument parser's commands."""
    _add_passkey(_experiment(commands, "passkey", _passkey, "find a number hidden in filler"))
    _add_needle(_experiment(commands, "needle", _needle, "find facts hidden in any text"))
    _add_perplexity(_experiment(commands, "perplexity", _perplexity, "predict a long text, segment by segment"))
    _add_calibrate(_experiment(commands, "calibrate", _calibrate, "measure the calibration of a model on any text"))


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """An option for every field of HomerConfig."""
    group = parser.add_argument_group("settings of HOMER, see HomerConfig")
    for field in dataclasses.fields(HomerConfig):
        name, kind = f"--{field.name.replace('_', '-')}", str(field.type)
        if kind.startswith("bool"):
            group.add_argument(name, action=argparse.BooleanOptionalAction, default=None)
        else:
            group.add_argument(name, type=int if "int" in kind else float if "float" in kind else str)


def _experiment(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], purpose: str
) -> argparse.ArgumentParser:
    """A command with the options that all experiments share."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=purpose, description=f"{purpose.capitalize()}.")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="the paper's settings; other options override them")
    parser.add_argument("--model", help="a hub id, a folder, or mini (default)")
    parser.add_argument("--method", nargs="+", choices=METHODS, help="plain and homer are the default")
    parser.add_argument("--scale", type=float, help="YaRN's factor (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", "--device-map", help="such as cuda, cpu, or auto for all GPUs")
    parser.add_argument("--dtype", help="such as bfloat16")
    parser.add_argument("--out", type=Path, help="folder for JSON, CSV and the figure")
    parser.add_argument("--no-progress", action="store_true")
    add_config_options(parser)
    parser.set_defaults(run=run, calibration=None)
    return parser


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration", nargs="+", metavar="[METHOD=]FILE", help="for every HOMER method, or for each its own; or none"
    )


def _add_cases(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    _add_calibration(parser)
    parser.add_argument("--context-lengths", nargs="+", type=int, help="tokens; default: 1, 2, 4, 8 windows")
    parser.add_argument("--samples", type=int, default=10, help="cases of each length (default: 10)")
    parser.add_argument("--depths", type=int, default=DEFAULT_DEPTHS, help="places of the fact asked for (default: 10)")
    parser.add_argument("--data", nargs="+", type=Path, metavar="FILE", help="read cases from JSON lines files")
    parser.add_argument("--write-data", type=Path, metavar="FILE", help="write the cases, and run nothing")
    parser.add_argument("--max-tokens", "--max-new-tokens", type=int, dest="max_new_tokens", default=max_new_tokens)


def _add_passkey(parser: argparse.ArgumentParser) -> None:
    _add_cases(parser, PASSKEY_NEW_TOKENS)
    parser.add_argument("--filler", type=Path, help="a text file to hide the number in")


def _add_needle(parser: argparse.ArgumentParser) -> None:
    _add_cases(parser, NEEDLE_NEW_TOKENS)
    parser.add_argument("haystack", nargs="?", type=Path, help="a text, Markdown or PDF file, or a folder of them")
    parser.add_argument("--needle", help="the fact, with {value} and maybe {key}; default: a door code")
    parser.add_argument("--question", help="what asks for it, with {key} where the fact has it")
    parser.add_argument("--keys", type=int, default=1, help="facts with different keys, of which one is asked for")
    parser.add_argument("--values", type=int, default=1, help="facts with the key asked for, all to be found")
    parser.add_argument("--repeat-haystack", action="store_true", help="begin again where the text ends")


def _add_perplexity(parser: argparse.ArgumentParser) -> None:
    _add_calibration(parser)
    parser.add_argument("texts", nargs="+", type=Path, help="text files")
    parser.add_argument("--context-lengths", nargs="+", type=int, help="tokens; default: 1, 4, 8, 16 windows")
    parser.add_argument("--samples", type=int, help="texts to take from the files in turn; default: each file once")
    parser.add_argument("--segment-len", type=int, help="tokens; default: half a window, with YaRN a quarter")
    parser.add_argument("--affix-len", type=int, default=AFFIX_LEN, help="tokens kept at both ends (default: 100)")


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "texts", nargs="*", type=Path, help="text files, or folders; default: text of the library's own"
    )
    parser.add_argument("--chat", action="store_true", help="take the preset's chat model, as passkey and needle do")
    parser.add_argument("--segments", type=int, default=100, help="default: 100, as in the paper")
    parser.add_argument("--segment-len", type=int, help="tokens; default: max_chunk_len")
    parser.add_argument("--prompts", type=int, default=200, help="prompts for means and deviations (default: 200)")
    parser.add_argument("--heads", action="store_true", help="find the evidence heads as well, by synthetic needles")


def _passkey(options: argparse.Namespace) -> int:
    setup = make_setup(options, chat=True)
    made = {name: getattr(options, name) for name in ("context_lengths", "samples", "depths", "filler")}
    if options.write_data:
        _check_not_read(options)
        return _write(options.write_data, passkey_cases(setup, **made))
    shared = {"max_new_tokens": options.max_new_tokens, "progress": not options.no_progress}
    return _finish(passkey(setup, data=options.data, **made, **shared), options.out)


def _needle(options: argparse.Namespace) -> int:
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
    shared = {"max_new_tokens": options.max_new_tokens, "progress": not options.no_progress}
    return _finish(needle(setup, options.haystack, data=options.data, **made, **shared), options.out)


def _perplexity(options: argparse.Namespace) -> int:
    report = perplexity(
        make_setup(options, chat=False),
        options.texts,
        context_lengths=options.context_lengths,
        samples=options.samples,
        segments=Segments(options.segment_len, options.affix_len),
        progress=not options.no_progress,
    )
    return _finish(report, options.out)


def _calibrate(options: argparse.Namespace) -> int:
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


def make_setup(options: argparse.Namespace, chat: bool) -> Setup:
    """The setup that parsed options ask for: the preset's, overridden by what was given."""
    chosen: dict[str, Any] = PRESETS[options.preset].setup(chat) if options.preset else {"methods": DEFAULT_METHODS}
    names = {"model": "model", "method": "methods", "scale": "scale", "dtype": "dtype", "device": "device"}
    given = {field: getattr(options, name) for name, field in names.items() if getattr(options, name) is not None}
    fields = [field.name for field in dataclasses.fields(HomerConfig)]
    settings = {name: getattr(options, name) for name in fields if getattr(options, name) is not None}
    chosen["settings"] = chosen.get("settings", {}) | settings
    return Setup(**(chosen | given), calibration=_calibrations(options.calibration), seed=options.seed)


def _calibrations(given: list[str] | None) -> Any:
    """A file for every method, or {method: file}."""
    pairs = [item.partition("=") for item in given or []]
    named = {name: file for name, _, file in pairs if file and name in METHODS}
    if len(pairs) == 1 and not named:
        return pairs[0][0] if not pairs[0][2] else "".join(pairs[0])
    if len(named) < len(pairs):
        raise ConfigError("several calibrations need the method of each: --calibration homer=FILE homer-yarn=FILE")
    return named or None


def _check_not_read(options: argparse.Namespace) -> None:
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
