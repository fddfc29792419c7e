"""The text of one file: by its kind as text, PDF, web page or office document."""

from __future__ import annotations

import codecs
import importlib
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homer.errors import InputError

TEXT_SUFFIXES = (
    ".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex", ".csv", ".tsv", ".json", ".jsonl", ".yaml",
    ".yml", ".toml", ".ini", ".cfg", ".xml", ".log", ".srt", ".vtt",
)  # fmt: skip
STDIN = Path("/dev/stdin")  # read by its name on any system
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w-]+)", re.I)
_CONVERTERS = {
    ".html": "HtmlConverter",
    ".htm": "HtmlConverter",
    ".docx": "DocxConverter",
    ".pptx": "PptxConverter",
    ".xlsx": "XlsxConverter",
}
SUFFIXES = (*TEXT_SUFFIXES, ".pdf", *_CONVERTERS)


class UnreadableError(InputError):
    """A file without text that can be read; `problem` says why, without its name."""

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        super().__init__(f"{path} {problem}")
        self.problem = problem


def read_file(path: Path) -> str:
    """The text of a file, of standard input or of a pipe; a file of an unknown kind is taken for text.

    Raises:
        UnreadableError: it cannot be read, or holds no text.
    """
    try:
        content = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({getattr(error, 'strerror', None) or error}): check the path and its permissions"
        raise UnreadableError(path, problem) from None
    return _reader(path, content)(path, content)


def _reader(path: Path, content: bytes) -> Callable[[Path, bytes], str]:
    suffix = path.suffix.lower()
    if suffix == ".pdf" or (suffix not in SUFFIXES and content.startswith(b"%PDF-")):
        return _read_pdf
    return _read_converted if suffix in _CONVERTERS else decode_text


def decode_text(name: str | os.PathLike[str], content: bytes, charset: str = "utf-8") -> str:
    """Text by the mark that it begins with, or by a charset.

    Raises:
        UnreadableError: it is no text of that kind, or holds zeros, as UTF-16 without a mark does.
    """
    encoding = next((codec for mark, codec in _MARKS if content.startswith(mark)), charset)
    try:
        text = content.decode(encoding)
    except LookupError:
        raise UnreadableError(name, f"is said to be {charset!r}, which is no charset: convert it to UTF-8") from None
    except UnicodeError as error:
        at = getattr(error, "start", "?")
        problem = f"is no {encoding.upper()} text (byte {at}): convert it to text first"
        raise UnreadableError(name, problem.replace("-SIG", "")) from None
    zero = text.find("\0")
    if zero >= 0:
        raise UnreadableError(
            name,
            f"holds a zero at character {zero}, so it is no text, or UTF-16 without a byte order mark: convert it to "
            f"UTF-8 first",
        )
    return text


def _read_pdf(path: Path, content: bytes) -> str:
    try:
        from pypdf import PdfReader
    except ImportError:
        problem = "is a PDF: pip install homer-integrations[pdf], or convert it to text"
        raise UnreadableError(path, problem) from None
    try:
        text = "\n\n".join(page.extract_text() for page in PdfReader(io.BytesIO(content)).pages)
    except Exception as error:  # of damaged files anything may come
        raise UnreadableError(path, f"cannot be read as a PDF ({error}): convert it to text") from None
    if not text.strip():
        problem = "holds no text, perhaps only pictures of pages: run text recognition on it first"
        raise UnreadableError(path, problem)
    return text


def _read_converted(path: Path, content: bytes) -> str:
    """A web page or an office document as Markdown."""
    suffix = path.suffix.lower()
    try:
        converters: Any = importlib.import_module("markitdown.converters")
        stream_info: Any = importlib.import_module("markitdown").StreamInfo
    except ImportError:
        problem = f"is of kind {suffix}: pip install homer-integrations[documents], or convert it to text"
        raise UnreadableError(path, problem) from None
    if _CONVERTERS[suffix] == "HtmlConverter":
        content = decode_text(path, content, _declared(content)).encode(errors="replace")
    try:
        converter = getattr(converters, _CONVERTERS[suffix])()
        converted = converter.convert(io.BytesIO(content), stream_info(extension=suffix, charset="utf-8"))
    except Exception as error:  # of damaged files anything may come
        first = str(error).strip().split("\n")[0]
        raise UnreadableError(path, f"cannot be read as {suffix} ({first}): convert it to text") from None
    return str(converted.markdown)


def _declared(content: bytes) -> str:
    """The encoding that a web page says it is in."""
    found = _CHARSET.search(content[:4096])
    name = found[1].decode() if found else "utf-8"
    try:
        b"a".decode(name)
    except (LookupError, UnicodeError):
        return "utf-8"
    return "utf-8" if name.lower().startswith("utf") else name  # a page whose head can be read is no UTF-16
