"""The fingerprint of a model: a digest of everything that its keys and values depend on."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_FINGERPRINT_FIELDS = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rope_parameters", "max_position_embeddings", "vocab_size",
)  # fmt: skip


def fingerprint(model: PreTrainedModel, dtype: torch.dtype, products: str = "") -> str:
    """A digest of shapes, RoPE, dtype, adapters, and of sums over all rows and columns of every weight that is here.

    Args:
        products: how matrices are multiplied, where that is not the weights' own way.
    """
    config = model.config.get_text_config().to_dict()
    facts = {name: config.get(name) for name in _FINGERPRINT_FIELDS} | {"dtype": str(dtype)}
    facts |= {"products": products} if products else {}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    with torch.no_grad():
        for name, weight in itertools.chain(model.named_parameters(), _kept_buffers(model)):
            for part in plain_tensors(weight):
                digest.update(part.encode() if isinstance(part, str) else _summed(name, part))
        for name, module in model.named_modules():
            digest.update(_switches(name, module))
    return digest.hexdigest()


def _summed(name: str, part: Tensor) -> bytes:
    return f"{name}{part.dtype}{tuple(part.shape)}".encode() + row_sums(part)


def _switches(name: str, module: Any) -> bytes:
    """What an adapter of PEFT, or a layer of bitsandbytes' 8 bits, holds beside its weights."""
    scales = getattr(getattr(module, "state", None), "SCB", None)
    if isinstance(scales, Tensor):
        return _summed(name, scales)
    if not isinstance(getattr(module, "scaling", None), dict):
        return b""
    disabled = getattr(module, "disable_adapters", False)
    return f"{name}{module.scaling}{_told(getattr(module, 'active_adapters', None))}{disabled}".encode()


def plain_tensors(weight: Tensor) -> Iterator[Tensor | str]:
    """What a weight is made of: itself, or the parts of a quantized one and what is said of them; none if not here."""
    if weight.device.type == "meta":
        return
    flatten = getattr(weight, "__tensor_flatten__", None)
    if flatten is None:
        yield weight.detach().as_subclass(Tensor)
        yield from _attached(vars(weight) if type(weight) not in (Tensor, nn.Parameter) else {})
        return
    names, settings = flatten()
    yield _told(settings)
    for name in names:
        yield from plain_tensors(getattr(weight, name))


def row_sums(weight: Tensor) -> bytes:
    """Sums over a weight's rows and columns, of its bits taken for whole numbers: exact, wherever it lies."""
    bits = weight.contiguous().reshape(-1, weight.shape[-1] if weight.ndim else 1)
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(bits.element_size())
    bits = bits.view(whole) if whole is not None else bits
    return b"".join(bits.sum(side, dtype=torch.int64).cpu().numpy().tobytes() for side in (0, 1))


def _attached(attributes: Mapping[str, Any]) -> Iterator[Tensor | str]:
    """What hangs on a weight of a class of its own, such as the scales of bitsandbytes."""
    for name, value in sorted(attributes.items()):
        if name.startswith("_"):
            continue
        if isinstance(value, Tensor):
            yield name
            yield from plain_tensors(value)
        elif isinstance(value, str | int | float | torch.dtype):
            yield f"{name}={value}"
        elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module):
            yield name
            yield from _attached(vars(value))


def _kept_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that are saved with the weights, as GPTQ's and AWQ's weights are; not those that are derived."""
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}", buffer


def _told(settings: Any) -> str:
    """Settings as text that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(settings))
