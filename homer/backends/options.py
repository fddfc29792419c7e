"""The options of from_pretrained that are not handed on to transformers as they are: dtype, device, old names."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from homer.errors import ConfigError

logger = logging.getLogger(__name__)

Dtype = str | torch.dtype | Mapping[str, Any] | None
_WITHOUT_EFFECT = ("low_cpu_mem_usage", "offload_state_dict", "_fast_init", "mirror", "from_tf", "from_flax")
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
_MENDS = {
    "load_in_4bit": "give quantization_config=BitsAndBytesConfig(load_in_4bit=True)",
    "load_in_8bit": "give quantization_config=BitsAndBytesConfig(load_in_8bit=True)",
    "use_flash_attention_2": "give attn_implementation='flash_attention_2'",
    "output_loading_info": "leave it out: a model is what comes back",
    "config": "give model_config= for the model's own configuration, config= for a HomerConfig",
    "tokenizer": "load the model, and give both to HomerModel(model, tokenizer)",
}


def settle_dtype(dtype: Dtype, options: dict[str, Any]) -> Dtype:
    """The dtype asked for, under its own name or under `torch_dtype`, which is taken out of the options.

    Raises:
        ConfigError: two that differ, or one that is none of torch's.
    """
    older = options.pop("torch_dtype", None)
    given = [checked for checked in (_as_dtype(dtype), _as_dtype(older)) if checked is not None]
    if len(given) > 1 and given[0] != given[1]:
        raise ConfigError(f"dtype={dtype!r} and torch_dtype={older!r} are two names of one option: give dtype only")
    return given[0] if given else None


def settle_device(device: str | torch.device | int | None, options: Mapping[str, Any]) -> torch.device | None:
    """The one device that all of a model goes to.

    Raises:
        ConfigError: no such device here, or a device_map beside it.
    """
    if device is None:
        return None
    if options.get("device_map") is not None:
        raise ConfigError(f"device={device!r} and device_map are given: leave one of them out")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device={device!r} is none: give 'cpu', 'cuda', 'cuda:1' or 'mps'") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (found.index or 0) >= there.get(found.type, 1):
        raise ConfigError(
            f"device={device!r}, but torch {torch.__version__} sees {there[found.type]} of that kind: give 'cpu', or "
            f"install a build of torch for this machine"
        )
    return found


def check_options(options: dict[str, Any]) -> None:
    """Refuse options that cannot be given here; those that transformers drops without a word are named in the log.

    Raises:
        ConfigError: says what to give instead.
    """
    for name in _MENDS:
        if options.get(name):
            raise ConfigError(f"{name} is no option of from_pretrained: {_MENDS[name]}")
    for name in _WITHOUT_EFFECT:
        if name in options:
            logger.warning("%s=%r has no effect: transformers has no such option any more", name, options.pop(name))
    for name in _MENDS:
        options.pop(name, None)


def check_known(error: BaseException, names: Iterable[str]) -> None:
    """Raise ConfigError where transformers failed on an option of these names, which it does not know."""
    found = _UNKNOWN.search(str(error)) if isinstance(error, TypeError) else None
    if found is None or found[1] not in set(names):
        return
    close = difflib.get_close_matches(found[1], _KNOWN, 1)
    meant = f"did you mean {close[0]}?" if close else "leave it out, or correct its name"
    raise ConfigError(
        f"{found[1]!r} is an option neither of from_pretrained nor of transformers, and no setting of this model's "
        f"configuration: {meant}"
    ) from error


_KNOWN = (
    "adapter_kwargs", "attn_implementation", "cache_dir", "calibration", "config", "device", "device_map", "dtype",
    "fast", "force_download", "gguf_file", "local_files_only", "max_memory", "model_config", "offload_folder",
    "quantization_config", "revision", "rope_scaling", "subfolder", "token", "torch_dtype", "trust_remote_code",
    "use_safetensors", "variant",
)  # fmt: skip


def _as_dtype(given: Dtype) -> Dtype:
    if given is None or given == "auto" or isinstance(given, torch.dtype | Mapping):
        return given
    found = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else None
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"dtype={given!r} is none of torch's: give 'auto', 'float32', 'bfloat16' or 'float16'")
    return found
