"""The options of the experiments: homer passkey, needle, perplexity, calibrate."""

from __future__ import annotations

from typing import Any

import click

from homer.cli.options import (
    CONFIG,
    DEVICE_HELP,
    DTYPE,
    NO_PROGRESS,
    PATH,
    Command,
    Option,
    argument,
    command,
    max_tokens,
)

METHODS = ("plain", "yarn", "homer", "homer-yarn")
PRESETS = ("llama-2-13b", "llama-2-7b")

_SHARED = (
    Option("--preset", type=click.Choice(PRESETS), help="the paper's settings; other options override them"),
    Option("--model", help="a hub id, a folder, or mini (default)"),
    Option("--method", multiple=True, type=click.Choice(METHODS), help="one or several; default: plain homer"),
    Option("--scale", type=float, help="YaRN's factor (default: 2)"),
    Option("--seed", type=int, default=0),
    Option("--device", old=["--device-map"], help=DEVICE_HELP),
    DTYPE,
    Option("--out", type=PATH, help="folder for JSON, CSV and the figure"),
    NO_PROGRESS,
)
_CALIBRATION = Option(
    "--calibration", multiple=True, metavar="[METHOD=]FILE", help="for every HOMER method, or for each its own; or none"
)


def commands(_: Any) -> dict[str, Command]:
    """All four by their names."""
    return {
        made.name or "": made
        for made in (
            _experiment("passkey", "Find a number hidden in filler.", *_cases(16), _FILLER),
            _experiment("needle", "Find facts hidden in any text.", *_cases(48), *_NEEDLE),
            _experiment("perplexity", "Predict a long text, segment by segment.", *_PERPLEXITY),
            _experiment("calibrate", "Measure the calibration of a model on any text.", *_CALIBRATE),
        )
    }


def _experiment(name: str, purpose: str, *parameters: click.Parameter) -> Command:
    return command(name, purpose, f"homer.experiments.commands:run_{name}", *parameters, *_SHARED, *CONFIG)


def _cases(new_tokens: int) -> tuple[click.Parameter, ...]:
    return (
        _CALIBRATION,
        Option("--context-lengths", multiple=True, type=int, help="tokens; default: 1, 2, 4, 8 windows"),
        Option("--samples", type=int, default=10, help="cases of each length"),
        Option("--depths", type=int, default=10, help="depths of the fact asked for"),
        Option("--data", multiple=True, type=PATH, metavar="FILE", help="read cases from JSON lines files"),
        Option("--write-data", type=PATH, metavar="FILE", help="write the cases, and run nothing"),
        max_tokens("most new tokens", new_tokens),
    )


_FILLER = Option("--filler", type=PATH, help="a text file to hide the number in")
_NEEDLE = (
    argument("haystack", required=False, type=PATH),
    Option("--needle", help="the fact, with {value} and maybe {key}; default: a door code"),
    Option("--question", help="what asks for it, with {key} where the fact has it"),
    Option("--keys", type=int, default=1, help="facts with different keys, of which one is asked for"),
    Option("--values", type=int, default=1, help="facts with the key asked for, all to be found"),
    Option("--repeat-haystack", is_flag=True, help="begin again where the text ends"),
)
_PERPLEXITY = (
    _CALIBRATION,
    argument("texts", nargs=-1, required=True, type=PATH),
    Option("--context-lengths", multiple=True, type=int, help="tokens; default: 1, 4, 8, 16 windows"),
    Option("--samples", type=int, help="texts to take from the files in turn; default: each file once"),
    Option("--segment-len", type=int, help="tokens; default: half a window, with YaRN a quarter"),
    Option("--affix-len", type=int, default=100, help="tokens kept at both ends"),
)
_CALIBRATE = (
    argument("texts", nargs=-1, type=PATH),
    Option("--chat", is_flag=True, help="take the preset's chat model, as passkey and needle do"),
    Option("--segments", type=int, default=100, help="as in the paper"),
    Option("--segment-len", type=int, help="tokens; default: max_chunk_len"),
    Option("--prompts", type=int, default=200, help="prompts for means and deviations"),
    Option("--heads", is_flag=True, help="find the evidence heads as well, by synthetic needles"),
)
