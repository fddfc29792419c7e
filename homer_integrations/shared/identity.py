"""What an answer depends on, as plain JSON values that are the same in every process: no address, nothing random."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import torch

from homer import Calibration, Document, HomerModel

_TOKENIZERS: weakref.WeakKeyDictionary[HomerModel, tuple[Any, str]] = weakref.WeakKeyDictionary()


class NotPlainError(TypeError):
    """A value that no other process could tell from another, such as a function of one's own."""


def plain(value: Any) -> Any:
    """A value as JSON values; of a tensor its digest.

    Raises:
        NotPlainError: a value of which nothing but its address is known.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, enum.Enum | torch.dtype | torch.device):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), _digest(value.detach().cpu().contiguous())]
    return _plain_parts(value)


def shown(value: Any) -> Any:
    """A value for people who read a trace: as JSON values, or else the name of its type."""
    try:
        return plain(value)
    except NotPlainError:
        return getattr(value, "__qualname__", None) or type(value).__qualname__


def digest_of(value: Any) -> str:
    """A digest of JSON values; of text with lone surrogates as well."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of_documents(documents: Iterable[Document]) -> str:
    """A digest of documents: what the model reads of them, and the titles that its sources have."""
    return digest_of([[d.text, plain(d.title), d.header, d.after, *_score(d)] for d in documents])


def _score(document: Document) -> list[float]:
    return [] if document.score is None else [float(document.score)]


def identity_of(model: HomerModel) -> list[Any]:
    """What a model answers by, but for its HomerConfig: weights, calibration, tokenizer, template, end of text."""
    tokenizer, digest = _TOKENIZERS.get(model, (None, ""))
    if not digest or tokenizer is not model.tokenizer:
        digest = _tokenizer(model.tokenizer)
        _TOKENIZERS[model] = model.tokenizer, digest
    holders = (getattr(model.model, "generation_config", None), model.model.config, model.tokenizer)
    return [
        model.decoder.fingerprint,
        _calibration(model.calibration),
        digest,
        digest_of(plain(getattr(model.tokenizer, "chat_template", None))),
        [plain(getattr(holder, "eos_token_id", None)) for holder in holders],
    ]


def _plain_parts(value: Any) -> Any:
    if isinstance(value, Mapping):
        return sorted(([plain(key), plain(item)] for key, item in value.items()), key=json.dumps)
    if isinstance(value, Set):
        return sorted(map(plain, value), key=json.dumps)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.compare]
        return [name, {name: plain(getattr(value, name)) for name in names}]
    if callable(getattr(value, "to_dict", None)) and not isinstance(value, type):  # settings of transformers
        return [name, plain(value.to_dict())]
    raise NotPlainError(f"a {name} has no form that is the same in every process")


def _calibration(calibration: Calibration | None) -> Any:
    """Its numbers; not its notes of when and on what they were measured."""
    if calibration is None:
        return None
    return [plain(getattr(calibration, name)) for name in ("bias", "means", "deviations", "heads")]


def _tokenizer(tokenizer: Any) -> str:
    """A digest of how text becomes tokens; padding and truncation, which calls of others may set, say nothing of it."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        facts = json.loads(fast.to_str())
        return digest_of({name: value for name, value in facts.items() if name not in ("padding", "truncation")})
    return digest_of([type(tokenizer).__qualname__, tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else None])


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.view(-1).view(torch.uint8).numpy().data).hexdigest()
