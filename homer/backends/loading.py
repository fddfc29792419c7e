"""Loading a model with all that belongs to it: tokenizer, RoPE settings, shipped configuration and calibration."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from homer.config import HomerConfig
from homer.errors import ConfigError, UnsupportedModelError

logger = logging.getLogger(__name__)

MINI = Path(__file__).parents[1] / "demo" / "mini"
SETTINGS_FILE, CALIBRATION_FILE = "homer.json", "homer_calibration.safetensors"
_TRUST = "trust_remote_code"
_SHARED_OPTIONS = ("revision", "token", _TRUST, "cache_dir", "local_files_only", "subfolder")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and the settings and the calibration that lie in its folder, where there are any."""

    model: PreTrainedModel
    tokenizer: Any
    config: HomerConfig | None
    calibration: Path | None


def load_model(
    name_or_path: str | os.PathLike[str],
    dtype: str | torch.dtype | None,
    rope_scaling: float | Mapping[str, Any] | None,
    options: dict[str, Any],
) -> LoadedModel:
    """Load by hub id, folder, or the name "mini"; options go to transformers.

    Raises:
        UnsupportedModelError: no such model, or transformers cannot load it.
    """
    options[_TRUST] = options.get(_TRUST) is True  # else transformers asks, and may run code
    mini = str(name_or_path) == "mini"
    source = str(MINI if mini else name_or_path)
    shared = {name: options[name] for name in _SHARED_OPTIONS if name in options}
    try:
        config = options.pop("model_config", None) or AutoConfig.from_pretrained(source, **shared)
        if rope_scaling is not None:
            scale_rope(config, rope_scaling)
        kind = dtype or (torch.float32 if mini and not torch.cuda.is_available() else "auto")
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=kind, **options)
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what is damaged, or of another kind, makes transformers raise errors of any kind
        raise UnsupportedModelError(
            f"cannot load a causal language model from {str(name_or_path)!r} ({reason_of(error)}): "
            f"give a hub id, a folder that save_pretrained wrote, or 'mini'"
        ) from error
    model.train(False)
    settings, calibration = _beside(source)
    return LoadedModel(
        model,
        _load_tokenizer(source, shared),
        settings if rope_scaling is None else None,
        calibration if rope_scaling is None else None,
    )


def scale_rope(config: Any, scaling: float | Mapping[str, Any]) -> None:
    """Set YaRN by a factor, or any RoPE settings of transformers, in a model's configuration before it is loaded.

    The window, max_position_embeddings, becomes the original one times the factor.

    Raises:
        ConfigError: a factor below 1, or a model with RoPE settings for each kind of layer.
    """
    text = config.get_text_config()
    present = dict(text.rope_parameters or {})
    if "rope_theta" not in present:
        raise ConfigError("this model has RoPE settings for each kind of layer: give them in its own configuration")
    window = present.get("original_max_position_embeddings") or text.max_position_embeddings
    wanted: dict[str, Any] = (
        dict(scaling) if isinstance(scaling, Mapping) else {"rope_type": "yarn", "factor": float(scaling)}
    )
    if wanted.get("factor", 1.0) < 1:
        raise ConfigError(f"rope_scaling={wanted['factor']} would shrink the window: give a factor of at least 1")
    base = {"rope_theta": present["rope_theta"], "original_max_position_embeddings": window}
    partial = {name: present[name] for name in ("partial_rotary_factor",) if name in present}
    text.rope_parameters = base | partial | wanted
    text.max_position_embeddings = int(text.rope_parameters["original_max_position_embeddings"] * wanted["factor"])


def end_ids(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text, by the model's settings or the tokenizer's."""
    ids: set[int] = set()
    for holder in (model.generation_config, model.config, tokenizer):
        end = getattr(holder, "eos_token_id", None)
        ids |= set(end if isinstance(end, list | tuple) else [] if end is None else [end])
    return frozenset(ids)


def _beside(source: str) -> tuple[HomerConfig | None, Path | None]:
    settings, calibration = Path(source) / SETTINGS_FILE, Path(source) / CALIBRATION_FILE
    return _read_settings(settings) if settings.is_file() else None, calibration if calibration.is_file() else None


def _read_settings(path: Path) -> HomerConfig:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}): mend it, or remove it") from None
    if not isinstance(facts, dict):
        raise ConfigError(f"{path} holds a {type(facts).__name__}, not settings by name: mend it, or remove it")
    return HomerConfig.from_dict(facts)


def _load_tokenizer(source: str, options: dict[str, Any]) -> Any:
    """The tokenizer, or None where there is none: token ids then still work.

    Raises:
        UnsupportedModelError: one with code of its own that nobody said to trust.
    """
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # as above
        if _TRUST in str(error):
            raise UnsupportedModelError(f"cannot load the tokenizer of {source!r}: {reason_of(error)}") from error
        logger.info("no tokenizer for %s: %s", source, reason_of(error))
        return None


def reason_of(error: BaseException) -> str:
    """Why transformers could not load something, in one line."""
    if _TRUST in str(error):
        return f"it brings code of its own; give {_TRUST}=True if you trust that code"
    return str(error).strip().split("\n")[0]
