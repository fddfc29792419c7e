"""The text of a PDF, read by a process of its own, which can be ended whatever the file makes its reader do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from homer import InputError
from homer_integrations.serve.lanes import Tick

_PROGRAM = Path(__file__).with_name("pdf_text.py")


def read_pdf(name: str, content: bytes, tick: Tick) -> str:
    """The text of a PDF.

    Args:
        tick: called while the process runs; where it raises, the process is ended.

    Raises:
        InputError: no PDF, or one without text.
    """
    command = [sys.executable, "-P", str(_PROGRAM)]  # -P: the modules beside it do not stand before Python's own
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            text, said = _outcome(process, content, tick)
        finally:
            process.kill()
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines() or [f"its reader ended with {process.returncode}"]
        raise InputError(f"{name!r} cannot be read as a PDF ({lines[-1]:.200}): convert it to text")
    return text.decode()


def _outcome(process: subprocess.Popen[bytes], content: bytes, tick: Tick) -> tuple[bytes, bytes]:
    given: bytes | None = content
    while True:
        try:
            return process.communicate(given, timeout=0.1)
        except subprocess.TimeoutExpired:
            given = None  # what is not written yet goes on being written
            tick()
