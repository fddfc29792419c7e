"""The options that commands share: one name, one meaning, one help text. Imports nothing that takes long."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from homer.config import SIGNIFICANCES, HomerConfig

Options = SimpleNamespace
FILES = "files or folders of text, PDF, HTML, DOCX, PPTX or XLSX; - is standard input"
PATH = click.Path(path_type=Path)
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Option(click.Option):
    """An option that may have old names, which work and are not shown."""

    def __init__(self, *names: str, old: Sequence[str] = (), **given: Any) -> None:
        super().__init__([*names, *old], **{"show_default": not given.get("is_flag")} | given)
        self._old = old

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Several values are a list, and none are None."""
        value = super().process_value(ctx, value)
        return (list(value) or None) if self.multiple else value

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """What is shown in help."""
        shown = copy.copy(self)
        shown.opts = [name for name in self.opts if name not in self._old]
        return click.Option.get_help_record(shown, ctx)


class Command(click.Command):
    """A command whose options of several values take them in a row, `--method plain homer`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, which knows `--method plain --method homer` only."""
        return super().parse_args(ctx, list(self._one_by_one(args, ctx.resilient_parsing)))

    def _one_by_one(self, args: Sequence[str], completing: bool) -> Iterator[str]:
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        name, missing = "", False
        for index, arg in enumerate(args):
            if arg.startswith("-") and arg != "-":
                if missing:
                    break
                name, missing = (arg, True) if arg in several else ("", False)
                if arg == "--":
                    yield from args[index:]
                    return
                if not name:
                    yield arg
            else:
                yield from (name, arg) if name else (arg,)
                missing = False
        if missing and not completing:
            raise click.BadOptionUsage(name, f"Option {name!r} requires an argument.")


def command(name: str, purpose: str, run: str, *parameters: click.Parameter) -> Command:
    """A command.

    Args:
        run: module:function, imported when it is needed; it is given the Options and returns the exit status.
    """

    def call(**given: Any) -> int:
        module, _, function = run.partition(":")
        if given.get("device") == "auto" and given.get("device_map", "") is None:
            given |= {"device": None, "device_map": "auto"}
        status: int = getattr(importlib.import_module(module), function)(Options(**given))
        return status

    return Command(name, callback=call, params=list(parameters), help=purpose, context_settings=HELP)


def argument(name: str, **given: Any) -> click.Argument:
    """What is given without a name."""
    return click.Argument([name], **given)


def max_tokens(purpose: str, default: int | None = None) -> Option:
    """How long an answer may be."""
    return Option("--max-tokens", old=["--max-new-tokens"], type=int, default=default, help=purpose)


def _setting(field: dataclasses.Field[Any]) -> Option:
    """A field of HomerConfig as an option."""
    name, kind = field.name.replace("_", "-"), str(field.type)
    if kind.startswith("bool"):
        return Option(f"--{name}/--no-{name}", default=None, help="see HomerConfig")
    if field.name == "significance":
        return SIGNIFICANCE
    return Option(f"--{name}", type=int if "int" in kind else float, help="see HomerConfig")


def _json_object(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """A JSON object as a dict; click's usage error on something else."""
    try:
        given = None if value is None else json.loads(value)
    except ValueError:
        given = value
    if not (given is None or isinstance(given, dict)) or (value is not None and given is None):
        raise click.BadParameter(f'{value} is no JSON object: give one, as {{"enable_thinking": false}}', ctx, param)
    return given


DEVICE_HELP = "cpu, cuda, mps, or auto for all GPUs"
DTYPE = Option("--dtype", help="such as bfloat16")
MODEL = (
    Option("--model", default="mini", help="a hub id, a folder, a GGUF file, or mini"),
    Option("--gguf-file", help="of a hub id or a folder, the file that holds the model"),
    Option("--device", help=DEVICE_HELP),
    Option("--device-map", hidden=True),
    Option("--devices", help="GPUs that read one context together, each with a copy of the model: 0,1 or auto"),
    DTYPE,
    Option("--calibration", help="a calibration file"),
    Option("--rope-scaling", type=float, help="a factor for YaRN"),
    Option(
        "--chat-template-kwargs",
        metavar="JSON",
        callback=_json_object,
        help='for the chat template: {"enable_thinking": false}',
    ),
)
SIGNIFICANCE = Option("--significance", type=click.Choice(SIGNIFICANCES), help="what decides which tokens survive")
CONFIG = tuple(map(_setting, dataclasses.fields(HomerConfig)))
LENGTHS = tuple(option for option in CONFIG if option.name not in ("refresh_suffix", "suffix_budget", "significance"))
QUESTION = Option("--question", required=True)
SYSTEM = Option("--system", help="the system message")
STRICT = Option("--strict", is_flag=True, help="a file below a folder that cannot be read is an error")
NO_PROGRESS = Option("--no-progress", is_flag=True, help="show no progress bar")
