"""Old import paths: modules that moved are found where they were for one release, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_FOLDERS = {
    "backends": "architecture attention blocks fingerprint graph loading views decoder=reference fast=fused "
    "kernels=kernels.plain attend=kernels.decoding fused=kernels.pointwise",
    "base": "arguments folder tensorfile _version=version",
    "calibrating": "measuring synthetic asking=heads remembered=on_demand",
    "cli": "indexing",
    "demo": "mini",
    "generation": "sampling answering=answer_stream generation=loop streaming=stream",
    "merging": "cache chunk merge",
    "plan": "schedule shares",
    "reuse": "encoded leaves states store reuse=encode",
    "significance": "calibration question sentences looking=evidence significance=scores significances=choosing",
    "text": "conversation files ids prompt readers template encoding=tokenizing",
    "view": "answer page sources styles trace drawing=tree",
}
_PAIRS = [(*entry.partition("=")[::2], folder) for folder, entries in _FOLDERS.items() for entry in entries.split()]
MOVED = {f"homer.{old}": f"homer.{folder}.{new or old}" for old, new, folder in _PAIRS}
MOVED["homer.scoring"] = "homer.significance"
_PACKAGES = {name for name in MOVED if name.partition(".")[2] in _FOLDERS}  # old modules whose name a folder has now


class _Finder(MetaPathFinder, Loader):
    """Imports a moved module under its old name."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(name, self) if name in MOVED.keys() - _PACKAGES else None

    def exec_module(self, module: ModuleType) -> None:
        _warn(module.__name__, MOVED[module.__name__], 3)
        sys.modules[module.__name__] = importlib.import_module(MOVED[module.__name__])


def install() -> None:
    """Find modules under their old names from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # before finders that look for `homer` in other folders, as editable ones do


def old_names(package: str) -> Callable[[str], Any]:
    """A package's `__getattr__`: modules that were in it, or the names of the module that bore its name."""

    def find(name: str) -> Any:
        if f"{package}.{name}" in MOVED:
            return importlib.import_module(f"{package}.{name}")
        if package in _PACKAGES and not name.startswith("__"):
            module = importlib.import_module(MOVED[package])
            if hasattr(module, name):
                _warn(f"{package}.{name}", f"{MOVED[package]}.{name}", 3)
                return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def _warn(old: str, new: str, level: int) -> None:
    message = f"{old} is {new} now: the old path goes with the next release, names of `homer` itself stay"
    warnings.warn(message, DeprecationWarning, stacklevel=level)
