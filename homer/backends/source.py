"""Where a model's weights, configuration and tokenizer lie: a hub id, a folder, a GGUF file or an adapter's folder."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.utils.peft_utils import find_adapter_config_file

from homer.backends.packages import require
from homer.errors import ConfigError, InputError, UnsupportedModelError

MINI = Path(__file__).parents[1] / "demo" / "mini"
TRUST = "trust_remote_code"
_SHARED_OPTIONS = (
    "revision",
    "token",
    TRUST,
    "cache_dir",
    "local_files_only",
    "subfolder",
    "force_download",
    "proxies",
)
_CONFIG, _ADAPTER = "config.json", "adapter_config.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the parts of a model come from.

    Attributes:
        name: as it was given.
        path: a hub id or a folder, of the model itself.
        gguf_file: the file there that holds weights, configuration and tokenizer.
        adapter: a hub id or a folder of an adapter, to be put on the model.
        options: what says where to look, for all of transformers' loaders.
    """

    name: str
    path: str
    gguf_file: str | None = None
    adapter: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where what belongs to this library may lie beside the model."""
        return Path(self.adapter or self.path)

    def read_config(self, changes: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The model's configuration with changes to its fields, and those changes that are to no field of it."""
        config, left = AutoConfig.from_pretrained(
            self.path, return_unused_kwargs=True, **self._file, **self.options, **changes
        )
        return config, {name: value for name, value in left.items() if name in changes}

    def read_tokenizer(self) -> Any:
        """The tokenizer, an adapter's own where it has one.

        Raises:
            InputError: there is none that can be read.
            UnsupportedModelError: one with code of its own that nobody said to trust.
        """
        reason = ""
        for path in filter(None, (self.adapter, self.path)):
            try:
                return AutoTokenizer.from_pretrained(path, **self._file, **self.options)
            except Exception as error:  # transformers raises errors of any kind for what is damaged
                reason = reason_of(error)
                if TRUST in str(error):
                    raise UnsupportedModelError(f"cannot load the tokenizer of {path!r}: {reason}") from error
        raise InputError(f"no tokenizer for {self.name!r} ({reason}): check the name or folder")

    @property
    def _file(self) -> dict[str, Any]:
        return {} if self.gguf_file is None else {"gguf_file": self.gguf_file}


def locate(name_or_path: str | os.PathLike[str], options: Mapping[str, Any]) -> Source:
    """Where a model lies that is given by a hub id, a folder, a GGUF file, an adapter's folder, or the name "mini".

    Args:
        options: of from_pretrained; `gguf_file` and what says where to look are read.

    Raises:
        ConfigError: a GGUF file beside another, or several in a folder that says not which.
        UnsupportedModelError: a package is missing; says which.
    """
    name = str(name_or_path)
    shared = {option: options[option] for option in _SHARED_OPTIONS if option in options}
    shared[TRUST] = shared.get(TRUST) is True  # else transformers asks, and may run code
    path, gguf_file = str(MINI) if name == "mini" else name, options.get("gguf_file")
    if name.lower().endswith(".gguf") and os.path.isfile(name):
        if gguf_file not in (None, os.path.basename(name)):
            raise ConfigError(f"gguf_file={gguf_file!r}, but the model given is {name!r} itself: leave one of them out")
        path, gguf_file = os.path.split(os.path.abspath(name))
    gguf_file = gguf_file or _only_gguf(Path(path))
    if gguf_file is not None:
        require(("gguf", "accelerate"), f"reading {gguf_file}")
        return Source(name, path, gguf_file, options=shared)
    base = _base_of(path, shared, options)
    return Source(name, path, options=shared) if base is None else Source(name, base, adapter=path, options=shared)


def reason_of(error: BaseException) -> str:
    """Why transformers could not load something, in one line."""
    if TRUST in str(error):
        return f"it brings code of its own; give {TRUST}=True if you trust that code"
    return str(error).strip().split("\n")[0]


def _only_gguf(folder: Path) -> str | None:
    """The GGUF file of a folder that holds no other model."""
    if not folder.is_dir() or (folder / _CONFIG).exists() or (folder / _ADAPTER).exists():
        return None
    files = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".gguf")
    if len(files) > 1:
        raise ConfigError(f"{folder} holds {len(files)} GGUF files: name one, gguf_file={files[0]!r}")
    return files[0] if files else None


def _base_of(path: str, shared: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
    """The model that an adapter belongs to, where `path` holds an adapter and no model."""
    if (Path(path) / _CONFIG).is_file():  # transformers puts an adapter beside it on the model
        return None
    found = {name: value for name, value in shared.items() if name != TRUST}
    adapter = find_adapter_config_file(path, **found | dict(options.get("adapter_kwargs") or {}))
    if adapter is None:
        return None
    require(("peft",), f"the adapter {path}")
    try:
        base = json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnsupportedModelError(f"{adapter} names no base_model_name_or_path ({error!r}): mend it") from None
    if not isinstance(base, str):
        raise UnsupportedModelError(f"{adapter} names {base!r} as base_model_name_or_path: give a hub id or a folder")
    beside = Path(path) / base
    return str(beside) if not os.path.isabs(base) and not os.path.exists(base) and beside.is_dir() else base
