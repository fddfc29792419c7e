"""Files to documents: plain text, Markdown, and PDF where pypdf is installed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from homer.errors import InputError

TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".rst", ".text")


def read_documents(paths: Iterable[str | os.PathLike[str]]) -> list[dict[str, str]]:
    """Files, and all such files below folders, as documents with their file name as title.

    Raises:
        InputError: no such file, a kind that cannot be read, or text that is not UTF-8.
    """
    files = [file for path in paths for file in _files(Path(path))]
    if not files:
        raise InputError(f"no files with text: give files or folders with {', '.join(TEXT_SUFFIXES)} or .pdf files")
    return [{"title": file.name, "text": _read(file)} for file in files]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        known = (*TEXT_SUFFIXES, ".pdf")
        return sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in known)
    if not path.is_file():
        raise InputError(f"no file at {path}: check the path")
    return [path]


def _read(path: Path) -> str:
    if path.suffix.lower() == ".pdf":
        return _read_pdf(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text (byte {error.start}): convert it to text first") from None


def _read_pdf(path: Path) -> str:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError:
        raise InputError(f"{path} is a PDF: pip install homer-integrations[pdf], or convert it to text") from None
    try:
        text = "\n\n".join(page.extract_text() for page in PdfReader(path).pages)
    except PyPdfError as error:
        raise InputError(f"{path} cannot be read as a PDF ({error}): convert it to text") from None
    if not text.strip():
        raise InputError(f"{path} holds no text, perhaps only pictures of pages: run text recognition on it first")
    return text
