"""The command line. Read `commands` first."""

from homer.cli.commands import main

__all__ = ["main"]
