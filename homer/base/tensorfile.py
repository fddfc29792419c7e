"""Safetensors files that are written whole or not at all, and whose checksum covers everything that they hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

DRAFT = ".part"  # what the name of a file ends with while it is written
_CHECKSUM = "sha256"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and what belongs to them; whoever reads meanwhile finds the old file or the new one.

    Raises:
        OSError: it cannot be written; then nothing has changed.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}{DRAFT}")
    try:
        save_file(tensors, draft, {**metadata, _CHECKSUM: _digest(tensors, metadata)})
        os.replace(draft, path)
    except SafetensorError as error:  # what the system refused, in words only
        raise OSError(None, str(error)) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file that `write_tensors` wrote, in memory: what becomes of the file changes nothing.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not as it was written; says why.
    """
    metadata, tensors = parse_tensors(path.read_bytes())
    if _CHECKSUM not in metadata:
        raise ValueError("it carries no checksum")
    if metadata.pop(_CHECKSUM) != _digest(tensors, metadata):
        raise ValueError("it is damaged or of another version: its checksum does not fit")
    return metadata, tensors


def parse_tensors(content: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file's content.

    Raises:
        ValueError: it is none.
    """
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return dict(header.get("__metadata__") or {}), tensors
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"it is damaged or no safetensors file: {error}") from None


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    facts = [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in sorted(tensors.items())]
    digest = hashlib.sha256(json.dumps([sorted(metadata.items()), facts]).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
