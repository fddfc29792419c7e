"""Indexing: folders of documents encoded into a store ahead of any question, and found there when asked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from homer.base.folder import store_root
from homer.config import HomerConfig
from homer.errors import InputError, StoreError
from homer.model import HomerModel
from homer.plan.layers import document_layer_ranges
from homer.reuse.encode import budget_for
from homer.reuse.encoded import EncodedContext
from homer.reuse.states import bytes_per_token
from homer.reuse.store import StateStore
from homer.text.documents import DocumentLike, to_document
from homer.text.files import read_documents
from homer.text.prompt import PromptBuilder

logger = logging.getLogger(__name__)

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
    prompt = PromptBuilder(model.require_tokenizer("index"), model.chat_template_kwargs).build("?", documents)
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
    suffix_budget: int | None = None,
    disk_bytes: int = 256 * 2**30,
    report: Callable[[Estimate], object] | None = None,
    strict: bool = False,
    report_skipped: Callable[[str], object] = logger.warning,
    progress: bool = False,
) -> Estimate:
    """Encode files and folders of documents into a store; what is there already is checked and skipped.

    Args:
        suffix_budget: room for a question in every leaf; None: what a store's contexts have for any usual one.
        report: called with the Estimate before anything is encoded.
        strict, report_skipped: as strict and report in `read_documents`.
        disk_bytes: most bytes of the store.

    Raises:
        StoreError: the documents will not fit, or cannot be written.
        InputError: as in `read_documents`, or no text in any of them.
    """
    paths = list(paths)
    documents = _with_text(read_documents(paths, strict=strict, report=report_skipped))
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
    budget = suffix_budget or _budget(model, "?", system, config)
    for document in tqdm(read, desc="encoding", unit="document", disable=not progress):
        model.encode([document], align="documents", store=store, system=system, suffix_budget=budget, config=config)
    for path in map(Path, paths):
        if path.is_file() or path.is_dir():  # a pipe cannot be read again
            _note_source(Path(folder), path.absolute())
    return size


def indexed_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """The files and folders whose documents were encoded into a store.

    Raises:
        InputError: no store, or an empty one.
        StoreError: a damaged note of one of them, since without it answers would come from fewer documents.
    """
    notes = sorted(store_root(Path(folder)).glob(f"{_SOURCES}/*.json"))
    if not notes:
        raise InputError(f"{folder} is no store with indexed documents: give files, or run homer index first")
    return sorted(map(_read_note, notes))


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
    usual, budget = (_budget(model, text, system, config or model.config) for text in ("?", question))
    if budget != usual:
        logger.warning(
            "the question takes more than the %d tokens that %s keeps free for it: long documents are encoded anew, "
            "with room for %d, and kept as well",
            *(usual, folder, budget),
        )
    encoded = model.encode(
        documents,
        system=system,
        suffix_budget=budget,
        align="documents",
        config=config,
        store=StateStore(folder),
        progress=progress,
    )
    return dataclasses.replace(encoded, cached_tokens=encoded.reused_tokens)


def _budget(model: HomerModel, question: str, system: str | None, config: HomerConfig) -> int:
    """The room that a store's contexts keep for a question; the same for all but very long ones."""
    builder = PromptBuilder(model.require_tokenizer("ask"), model.chat_template_kwargs)
    prefix_ids, suffix_ids, _ = builder.build_affix(question, system)
    resolved = config.resolve(model.window, model.decoder.layers, model.decoder.sliding_window)
    return budget_for(len(suffix_ids), len(prefix_ids), resolved.max_chunk_len)


def _with_text(documents: list[dict[str, str]]) -> list[dict[str, str]]:
    """Documents but for the blank ones, of which there is nothing to encode."""
    full = [document for document in documents if document["text"].strip()]
    titles = ", ".join(document["title"] for document in documents if not document["text"].strip())
    if not full:
        raise InputError(f"none of these files holds any text: {titles}; give others")
    if titles:
        logger.warning("nothing to encode in %s", titles)
    return full


def _note_source(folder: Path, path: Path) -> None:
    note = store_root(folder) / _SOURCES / _note_name(str(path))
    note.parent.mkdir(exist_ok=True)
    draft = note.with_name(f"{note.name}.{secrets.token_hex(4)}.part")
    draft.write_text(json.dumps({"path": str(path)}), encoding="utf-8")
    os.replace(draft, note)


def _note_name(path: str) -> str:
    """The name of the note of a path, which tells whether the note holds what was written."""
    return f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"


def _read_note(note: Path) -> Path:
    try:
        path = json.loads(note.read_text(encoding="utf-8"))["path"]
        if note.name == _note_name(path):
            return Path(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise StoreError(f"{note} is damaged: remove it, and run homer index on the documents that it stood for again")


def _existing(folder: str | os.PathLike[str]) -> Path:
    """The folder, or the nearest one above it that is there."""
    path = Path(folder).resolve()
    return next(parent for parent in (path, *path.parents) if parent.is_dir())
