"""The fingerprint of a model: a digest of everything that its keys and values depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

_FINGERPRINT_FIELDS = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rope_parameters", "max_position_embeddings", "vocab_size",
)  # fmt: skip


def fingerprint(model: PreTrainedModel, dtype: torch.dtype) -> str:
    """A digest of shapes, RoPE, dtype, and of sums over all rows and columns of every weight that is here."""
    config = model.config.get_text_config().to_dict()
    facts = {name: config.get(name) for name in _FINGERPRINT_FIELDS} | {"dtype": str(dtype)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            for part in plain_tensors(weight):
                digest.update(f"{name}{part.dtype}{tuple(part.shape)}".encode())
                digest.update(row_sums(part))
    return digest.hexdigest()


def plain_tensors(weight: Tensor) -> Iterator[Tensor]:
    """The tensors that a weight is made of: itself, or the parts of a quantized one; none of one that is not here."""
    if weight.device.type == "meta":
        return
    flatten = getattr(weight, "__tensor_flatten__", None)
    if flatten is None:
        yield weight.detach()
        return
    for name in flatten()[0]:
        yield from plain_tensors(getattr(weight, name))


def row_sums(weight: Tensor) -> bytes:
    """Sums over a weight's rows and columns, of its bits taken for whole numbers: exact, wherever it lies."""
    bits = weight.contiguous().reshape(-1, weight.shape[-1] if weight.ndim else 1)
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(bits.element_size())
    bits = bits.view(whole) if whole is not None else bits
    return b"".join(bits.sum(side, dtype=torch.int64).cpu().numpy().tobytes() for side in (0, 1))
