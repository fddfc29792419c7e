"""Names of a package that are imported when they are first asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names_of(package: str, modules: Mapping[str, str], otherwise: Callable[[str], Any]) -> Callable[[str], Any]:
    """A package's `__getattr__`.

    Args:
        modules: of the package, and the names that each has, with spaces between.
        otherwise: what is asked for all other names.
    """
    found = {name: module for module, names in modules.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in found:
            return otherwise(name)
        value = getattr(importlib.import_module(f"{package}.{found[name]}"), name)
        setattr(sys.modules[package], name, value)  # from now on it is found at once
        return value

    return find
