"""A program: a PDF on standard input, its text as UTF-8 on standard output.

What is wrong with the file is said on standard error, with status 1. It knows the standard library and pypdf only, so
that it starts at once.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys

_MEMORY = 4 * 2**30  # bytes that one file may take


def main() -> None:
    """Read one file."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not everywhere are there such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    logging.disable()
    try:
        from pypdf import PdfReader

        pages = PdfReader(io.BytesIO(sys.stdin.buffer.read())).pages
        text = "\n\n".join(page.extract_text() for page in pages)
    except ModuleNotFoundError as error:
        sys.exit(f"{error}, pip install homer-integrations[pdf] where the server runs")
    except Exception as error:  # pypdf raises whatever its parsers meet in a damaged file
        sys.exit(f"{type(error).__name__}: {error}")
    if not text.strip():
        sys.exit("it holds no text, perhaps only pictures of pages: run text recognition on it first")
    sys.stdout.buffer.write(text.encode(errors="replace"))


if __name__ == "__main__":
    main()
