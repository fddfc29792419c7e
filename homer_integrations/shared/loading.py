"""Loaded models, shared: the same name and options give the same HomerModel, loaded when first needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from homer import ConfigError, HomerModel, Lock, StateStore
from homer_integrations.shared.identity import NotPlainError, digest_of, plain

_STORES: dict[str, StateStore] = {}
_MODELS: dict[str, tuple[HomerModel, Mapping[str, Any]]] = {}  # the options stay, so that no other takes an address
_LOCKS: dict[str, Lock] = {}
_LOCK = Lock()


def shared_model(model: str | os.PathLike[str] | HomerModel, options: Mapping[str, Any]) -> HomerModel:
    """The loaded model of this name and these options of `HomerModel.from_pretrained`.

    A model that is loaded already is given back as it is. Loaded models stay in memory until
    `forget_shared_models`; threads that ask for the same one at once load it once.

    Raises:
        ConfigError: options for a model that is loaded already.
        UnsupportedModelError: no such model, or one that cannot work.
    """
    if isinstance(model, HomerModel):
        if options:
            raise ConfigError(
                f"{next(iter(options))} belongs to loading, but the model given is loaded already: leave it out, or "
                f"give the model's name"
            )
        return model
    key = _key(model, options)
    with _LOCK:
        lock = _LOCKS.setdefault(key, Lock())
    with lock:
        if key not in _MODELS:
            _MODELS[key] = HomerModel.from_pretrained(model, **options), options
        return _MODELS[key][0]


def shared_store(reuse: str | os.PathLike[str] | StateStore | None) -> StateStore | None:
    """The store that `reuse` names: "memory" is one for all of this process, a path is a folder's.

    Raises:
        StoreError: a folder that cannot be made.
    """
    if reuse is None or isinstance(reuse, StateStore):
        return reuse
    key = str(reuse) if str(reuse) == "memory" else os.path.abspath(reuse)
    with _LOCK:
        if key not in _STORES:
            _STORES[key] = StateStore(None if key == "memory" else key)
        return _STORES[key]


def forget_shared_models() -> None:
    """Let go of all shared models and stores; what still uses one keeps it."""
    _MODELS.clear()
    _STORES.clear()


def _key(model: str | os.PathLike[str], options: Mapping[str, Any]) -> str:
    """The same for the same folder or file, wherever it is called from, and for options of the same content."""
    name = os.path.abspath(model) if os.path.exists(model) and str(model) != "mini" else str(model)
    return digest_of([name, sorted((option, _told_apart(value)) for option, value in options.items())])


def _told_apart(value: Any) -> Any:
    try:
        return plain(value)
    except NotPlainError:
        return ["at", id(value)]
