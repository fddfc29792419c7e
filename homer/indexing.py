"""Indexing: folders of documents encoded into a store ahead of any question, and found there when asked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from homer.config import HomerConfig
from homer.encoded import EncodedContext
from homer.errors import InputError, StoreError
from homer.files import read_documents
from homer.model import HomerModel
from homer.prompt import DocumentLike, PromptBuilder, to_document
from homer.reuse import DEFAULT_BUDGET
from homer.schedule import document_layer_ranges
from homer.states import bytes_per_token
from homer.store import StateStore

_SOURCES = "sources"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a store of documents will take.

    Attributes:
        documents, tokens: how many there are.
        nbytes: of their states, all together.
        free: bytes on the disk.
    """

    documents: int
    tokens: int
    nbytes: int
    free: int

    def __str__(self) -> str:
        size, free = (f"{n / 1e9:.2f} GB" for n in (self.nbytes, self.free))
        return f"{self.documents:,} documents, {self.tokens:,} tokens: about {size} in the store ({free} free)"


def estimate(
    model: HomerModel, documents: Sequence[DocumentLike], folder: str | os.PathLike[str], config: HomerConfig
) -> Estimate:
    """How large a store of these documents will be, before anything is encoded."""
    resolved = config.resolve(model.window, model.decoder.layers, model.decoder.sliding_window)
    layers = document_layer_ranges(model.decoder.layers, resolved.layers_warmup, 1)[0][1]
    prompt = PromptBuilder(model.require_tokenizer("index")).build("?", documents)
    tokens = len(prompt.context_ids)
    return Estimate(
        sum(not document.blank for document in prompt.documents),
        tokens,
        tokens * bytes_per_token(model.decoder, layers),
        shutil.disk_usage(_existing(folder)).free,
    )


def index(
    model: HomerModel,
    paths: Iterable[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    config: HomerConfig | None = None,
    system: str | None = None,
    suffix_budget: int = DEFAULT_BUDGET,
    disk_bytes: int = 256 * 2**30,
    report: Callable[[Estimate], object] | None = None,
    progress: bool = False,
) -> Estimate:
    """Encode files and folders of documents into a store; what is there already is checked and skipped.

    Args:
        report: called with the Estimate before anything is encoded.
        disk_bytes: most bytes of the store.

    Raises:
        StoreError: the documents will not fit, or cannot be written.
        InputError: as in `read_documents`.
    """
    sources = [Path(path).resolve() for path in paths]
    documents = read_documents(sources)
    config = config or model.config
    size = estimate(model, documents, folder, config)
    if report is not None:
        report(size)
    read = [document for document in documents if not to_document(document).blank]
    store = StateStore(folder, memory_bytes=0, device_bytes=0, disk_bytes=disk_bytes, strict=True)
    limit = min(disk_bytes, size.free + store.nbytes["disk"])
    if size.nbytes > limit:
        raise StoreError(
            f"{size.nbytes:,} bytes will not fit {limit:,} in {folder}: free space, give another folder, or index less"
        )
    for document in tqdm(read, desc="encoding", unit="document", disable=not progress):
        options: dict[str, Any] = {"system": system, "suffix_budget": suffix_budget, "config": config}
        model.encode([document], align="documents", store=store, **options)
    for source in sources:
        _note_source(Path(folder), source)
    return size


def indexed_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """The files and folders whose documents were encoded into a store.

    Raises:
        InputError: no store, or an empty one.
    """
    notes = sorted(Path(folder).glob(f"{_SOURCES}/*.json"))
    if not notes:
        raise InputError(f"{folder} is no store with indexed documents: give files, or run homer index first")
    return sorted(Path(json.loads(note.read_text())["path"]) for note in notes)


def encode_from_store(
    model: HomerModel,
    question: str,
    documents: Sequence[DocumentLike],
    folder: str | os.PathLike[str],
    *,
    config: HomerConfig | None = None,
    system: str | None = None,
    progress: bool = False,
) -> EncodedContext:
    """Documents for a question, from a store as far as they are there; the rest is encoded and put there.

    The usage of an answer calls cached what came from the store.
    """
    _, suffix_ids = PromptBuilder(model.require_tokenizer("ask")).build_affix(question, system)
    encoded = model.encode(
        documents,
        system=system,
        suffix_budget=max(DEFAULT_BUDGET, -(-len(suffix_ids) // DEFAULT_BUDGET) * DEFAULT_BUDGET),
        align="documents",
        config=config,
        store=StateStore(folder),
        progress=progress,
    )
    return dataclasses.replace(encoded, cached_tokens=encoded.reused_tokens)


def _note_source(folder: Path, path: Path) -> None:
    note = folder / _SOURCES / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"
    note.parent.mkdir(exist_ok=True)
    draft = note.with_name(f"{note.name}.{secrets.token_hex(4)}.part")
    draft.write_text(json.dumps({"path": str(path)}))
    os.replace(draft, note)


def _existing(folder: str | os.PathLike[str]) -> Path:
    """The folder, or the nearest one above it that is there."""
    path = Path(folder).resolve()
    return next(parent for parent in (path, *path.parents) if parent.is_dir())
