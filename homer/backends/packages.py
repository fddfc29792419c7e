"""Optional packages: which one a way of loading needs, and the line that installs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

from homer.errors import UnsupportedModelError

_EXTRAS = {"accelerate": "accelerate", "gguf": "gguf", "peft": "peft"}  # of this package; others come by their names
_QUANTIZERS = {
    "bitsandbytes": ("accelerate", "bitsandbytes"),
    "bitsandbytes_4bit": ("accelerate", "bitsandbytes"),
    "bitsandbytes_8bit": ("accelerate", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors",),
    "gguf": ("accelerate", "gguf"),
    "gptq": ("gptqmodel",),
    "awq": ("gptqmodel",),
    "hqq": ("hqq",),
    "quanto": ("optimum.quanto",),
    "torchao": ("torchao",),
}


def installed(package: str) -> bool:
    """Whether a package could be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def require(packages: Iterable[str], purpose: str) -> None:
    """Check that packages are there.

    Raises:
        UnsupportedModelError: one is not; names it and how to install it.
    """
    for package in packages:
        if not installed(package):
            extra = _EXTRAS.get(package)
            wanted = f"homer-integrations[{extra}]" if extra else package.replace("_", "-").replace(".", "-")
            raise UnsupportedModelError(f"{purpose} needs the package {package}: pip install {wanted}")


def require_quantizer(settings: Any) -> None:
    """Check for what reads weights that are quantized by these settings, an object or a mapping.

    Raises:
        UnsupportedModelError: a package is missing.
    """
    given = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    method = str(getattr(given, "value", given))
    require(_QUANTIZERS.get(method, ()), f"a model quantized by {method}")
