"""Loading a model with all that belongs to it: tokenizer, RoPE settings, shipped configuration and calibration."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from homer.backends.options import Dtype, check_known, check_options, settle_device, settle_dtype
from homer.backends.packages import installed, require, require_quantizer
from homer.backends.source import MINI, Source, locate, reason_of
from homer.config import HomerConfig
from homer.errors import ConfigError, HomerError, InputError, UnsupportedModelError

__all__ = ["CALIBRATION_FILE", "MINI", "SETTINGS_FILE", "LoadedModel", "end_ids", "load_model", "scale_rope"]

logger = logging.getLogger(__name__)

SETTINGS_FILE, CALIBRATION_FILE = "homer.json", "homer_calibration.safetensors"
_OF_LOADING = ("device_map", "max_memory", "quantization_config", "attn_implementation", "gguf_file", "adapter_kwargs")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and the settings and the calibration that lie in its folder, where there are any."""

    model: PreTrainedModel
    tokenizer: Any
    config: HomerConfig | None
    calibration: Path | None


def load_model(
    name_or_path: str | os.PathLike[str],
    dtype: Dtype,
    rope_scaling: float | Mapping[str, Any] | None,
    options: dict[str, Any],
    device: str | torch.device | None = None,
) -> LoadedModel:
    """Load by hub id, folder, GGUF file, adapter's folder, or the name "mini"; options go to transformers.

    Raises:
        ConfigError: an option that nobody knows, or options that contradict one another or this machine.
        UnsupportedModelError: no such model, transformers cannot load it, or a package is missing.
    """
    check_options(options)
    dtype, device = settle_dtype(dtype, options), settle_device(device, options)
    with _explained(name_or_path, options):
        source = locate(name_or_path, options)
        config = _configuration(source, options)
        if rope_scaling is not None:
            scale_rope(config, rope_scaling)
        model = _weights(source, config, dtype, device, options)
    model.train(False)
    settings, calibration = _beside(source.folder)
    return LoadedModel(
        model,
        _tokenizer(source),
        settings if rope_scaling is None else None,
        calibration if rope_scaling is None else None,
    )


def _tokenizer(source: Source) -> Any:
    """The tokenizer, or None where there is none: token ids then still work."""
    try:
        return source.read_tokenizer()
    except InputError as error:
        logger.info("%s", error)
        return None


@contextlib.contextmanager
def _explained(name_or_path: str | os.PathLike[str], options: Mapping[str, Any]) -> Iterator[None]:
    """Turns what transformers raises into an error of ours."""
    names = set(options)
    try:
        yield
    except (HomerError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what is damaged, or of another kind, makes transformers raise errors of any kind
        check_known(error, names)
        raise UnsupportedModelError(
            f"cannot load a causal language model from {str(name_or_path)!r} ({reason_of(error)}): "
            f"give a hub id, a folder that save_pretrained wrote, a GGUF file, or 'mini'"
        ) from error


def _configuration(source: Source, options: dict[str, Any]) -> Any:
    """The model's configuration; options that are fields of it are taken out of the options."""
    given = options.pop("model_config", None)
    if given is not None:
        return given
    changes = {name: value for name, value in options.items() if name not in (*_OF_LOADING, *source.options)}
    config, left = source.read_config(changes)
    for name in set(changes) - set(left):
        del options[name]
    return config


def _weights(
    source: Source, config: Any, dtype: Dtype, device: torch.device | None, options: dict[str, Any]
) -> PreTrainedModel:
    """The model with its adapter, on its device."""
    require_quantizer(options.get("quantization_config") or getattr(config, "quantization_config", None))
    if options.get("device_map") is not None:
        require(("accelerate",), "device_map")
    elif device is not None and device.type != "cpu" and installed("accelerate"):
        options["device_map"] = {"": device}  # else all of it would lie in the CPU's memory first
    adapting = {
        name: options.pop(name) for name in ("adapter_name", "adapter_kwargs") if source.adapter and name in options
    }
    if source.gguf_file is not None:
        _unpack(source, options)
    kind = dtype or _usual_dtype(source, config, device, options)
    given = {**options, **source.options}
    model: Any = AutoModelForCausalLM.from_pretrained(source.path, config=config, dtype=kind, **given)
    if source.adapter is not None:
        model.load_adapter(source.adapter, **adapting)
    if source.gguf_file is not None:
        _forget_blocks(model)
    if source.adapter or source.gguf_file:  # transformers names the folder, or what the adapter belongs to
        model.config._name_or_path = source.name
    moved: PreTrainedModel = model if device is None or "device_map" in options else model.to(device)
    return moved


def _usual_dtype(source: Source, config: Any, device: torch.device | None, options: Mapping[str, Any]) -> Dtype:
    """As the weights were saved; where that says nothing, 16 bits on a GPU and 32 elsewhere.

    On a CPU without instructions for 16 bits they are 32, too: products there are many times faster so.
    """
    where = device if device is not None else options.get("device_map")
    if source.name != "mini" and source.gguf_file is None:
        quantized = options.get("quantization_config") or getattr(config, "quantization_config", None)
        wide = str(where or "cpu") == "cpu" and not quantized and not computes_16_bits()
        saved = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
        if not wide or saved not in (torch.bfloat16, torch.float16):
            return "auto"
        logger.info("this CPU computes 16 bits slowly: %s is loaded in float32; dtype='auto' keeps them", source.name)
        return torch.float32
    if source.gguf_file is None:
        return "auto" if torch.cuda.is_available() else torch.float32
    return torch.float32 if where is None or "cpu" in str(where) else torch.bfloat16


def computes_16_bits() -> bool:
    """Whether this CPU has instructions for products of 16-bit numbers."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN, such as on ARM
        return True


def _unpack(source: Source, options: dict[str, Any]) -> None:
    """Have GGUF's blocks unpacked, where transformers could leave them: plain weights run faster, by any code."""
    options["gguf_file"] = source.gguf_file
    settings = getattr(transformers, "GgufConfig", None)  # since transformers 5.23
    if settings is not None and options.get("quantization_config") is None:
        options["quantization_config"] = settings(dequantize=True)


def _forget_blocks(model: Any) -> None:
    """Let a model of plain weights be one: transformers would still take it for quantized, and not save it."""
    settings = getattr(model.config, "quantization_config", None)
    if settings is None or not getattr(settings, "dequantize", False):
        return
    del model.config.quantization_config
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        model.__dict__.pop(name, None)


def scale_rope(config: Any, scaling: float | Mapping[str, Any]) -> None:
    """Set YaRN by a factor, or any RoPE settings of transformers, in a model's configuration before it is loaded.

    The window, max_position_embeddings, becomes the original one times the factor.

    Raises:
        ConfigError: a factor below 1, or a model with RoPE settings for each kind of layer.
    """
    text = config.get_text_config()
    rope = dict(text.rope_parameters or {})
    if "rope_theta" not in rope:
        raise ConfigError("this model has RoPE settings for each kind of layer: give them in its own configuration")
    window = rope.get("original_max_position_embeddings") or text.max_position_embeddings
    wanted: dict[str, Any] = (
        dict(scaling) if isinstance(scaling, Mapping) else {"rope_type": "yarn", "factor": float(scaling)}
    )
    if wanted.get("factor", 1.0) < 1:
        raise ConfigError(f"rope_scaling={wanted['factor']} would shrink the window: give a factor of at least 1")
    base = {"rope_theta": rope["rope_theta"], "original_max_position_embeddings": window}
    partial = {name: rope[name] for name in ("partial_rotary_factor",) if name in rope}
    text.rope_parameters = base | partial | wanted
    text.max_position_embeddings = int(text.rope_parameters["original_max_position_embeddings"] * wanted["factor"])


def end_ids(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text, by the model's settings or the tokenizer's."""
    ids: set[int] = set()
    for holder in (model.generation_config, model.config, tokenizer):
        end = getattr(holder, "eos_token_id", None)
        ids |= set(end if isinstance(end, list | tuple) else [] if end is None else [end])
    return frozenset(ids)


def _beside(folder: Path) -> tuple[HomerConfig | None, Path | None]:
    settings, calibration = folder / SETTINGS_FILE, folder / CALIBRATION_FILE
    return _read_settings(settings) if settings.is_file() else None, calibration if calibration.is_file() else None


def _read_settings(path: Path) -> HomerConfig:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}): mend it, or remove it") from None
    if not isinstance(facts, dict):
        raise ConfigError(f"{path} holds a {type(facts).__name__}, not settings by name: mend it, or remove it")
    return HomerConfig.from_dict(facts)
