"""The command line: homer ask, index, compress, serve, batch, demo, doctor; and passkey, needle, perplexity, calibrate.

Options are read here, and what runs is imported afterwards: help and completion need no torch.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from homer.base.version import __version__
from homer.cli import options
from homer.cli.options import FILES, MODEL, NO_PROGRESS, QUESTION, STRICT, SYSTEM, Command, Option, command
from homer.errors import HomerError

_SETTINGS = (*MODEL, *options.LENGTHS, options.SIGNIFICANCE)
_EXPERIMENTS = ("passkey", "needle", "perplexity", "calibrate")
_INTEGRATIONS = ("serve", "batch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where all went well, 1 where an answer was wrong, 2 on bad input."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: answers may hold what a terminal cannot show
    if instruction := os.environ.get("_HOMER_COMPLETE"):
        return shell_complete(_HOMER, {}, "homer", "_HOMER_COMPLETE", instruction)
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has read enough; else Python would say so once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: Sequence[str]) -> int:
    """As click's own `main`, but for its ways with pipes and interrupts, which are Python's here."""
    try:
        with _HOMER.make_context("homer", list(arguments)) as context:
            status: int = _HOMER.invoke(context)
            return status
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise
    except HomerError as error:
        print(f"homer: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"homer: {where}{error.strerror or error}: check paths, permissions and free space", file=sys.stderr)
    return 2


class _Homer(click.Group):
    """All commands; those of another module are found when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which help shows them."""
        return [*self.commands, *_EXPERIMENTS, *_INTEGRATIONS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them."""
        if cmd_name in _EXPERIMENTS:
            return _elsewhere("homer.cli.experiments")[cmd_name]
        if cmd_name in _INTEGRATIONS:  # by name, since their package is built upon this one, which does not need it
            return _elsewhere("homer_integrations.commands")[cmd_name]
        return self.commands.get(cmd_name)


def _elsewhere(module: str) -> dict[str, Command]:
    made: dict[str, Command] = importlib.import_module(module).commands(options)
    return made


_OWN = (
    command(
        "ask",
        f"Answer a question from files. FILES are {FILES}; none: all of the --store.",
        "homer.cli.running:run_ask",
        options.argument("files", nargs=-1),
        QUESTION,
        Option("--store", metavar="FOLDER", help="find documents there as homer index encoded them, and put new"),
        options.max_tokens("most new tokens, thoughts included (default: 256, or 8192 of a model that thinks)"),
        SYSTEM,
        STRICT,
        *_SETTINGS,
        Option("--json", is_flag=True, help="print the answer, sources and usage as JSON"),
        Option("--cite", is_flag=True, help="say of every sentence of the answer what it rests on"),
        Option("--show-thinking", is_flag=True, help="print what the model thought before it answered; --json has it"),
        Option("--html", metavar="PATH", help="draw the documents, what survived, and the tree in this file"),
        NO_PROGRESS,
    ),
    command(
        "index",
        f"Encode documents once, for any number of questions. FILES are {FILES}.",
        "homer.cli.running:run_index",
        options.argument("files", nargs=-1, required=True),
        Option("--out", required=True, metavar="FOLDER", help="the store; what is there already is kept"),
        Option("--disk-gb", type=float, default=256, help="most gigabytes of the store"),
        SYSTEM,
        NO_PROGRESS,
        STRICT,
        *_SETTINGS,
    ),
    command(
        "compress",
        f"Print what of files a question asks for, for any model. FILES are {FILES}.",
        "homer.cli.running:run_compress",
        options.argument("files", nargs=-1, required=True),
        QUESTION,
        Option("--max-tokens", type=int, help="tokens of text to print (default: 512, unless another is given)"),
        Option("--max-share", type=float, help="the same as a share of all tokens, above 0 to 1"),
        Option("--top-k", type=int, help="so many of the best sentences, passages or documents"),
        Option(
            "--keep",
            type=click.Choice(["sentences", "passages", "documents"]),
            default="sentences",
            help="what stays or goes as a whole",
        ),
        Option("--marker", default="[...]", help="stands where something was left out"),
        Option("--json", is_flag=True, help="print documents, spans, scores and usage as JSON"),
        NO_PROGRESS,
        STRICT,
        *_SETTINGS,
    ),
    command(
        "demo",
        "Ask a model about documents that ship with this package.",
        "homer.cli.running:run_demo",
        *_SETTINGS,
    ),
    command(
        "doctor",
        "Say what is installed, and how a model will run. Also what memory it will take.",
        "homer.cli.running:run_doctor",
        Option("--tokens", type=int, default=65_536, help="of the context to plan for"),
        *_SETTINGS,
    ),
)
_HOMER = click.version_option(__version__, prog_name="homer", message="%(prog)s %(version)s")(
    _Homer("homer", _OWN, help="Ask local models about documents of any length.", context_settings=options.HELP)
)
