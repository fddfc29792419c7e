"""Calibration: how loud a token is at each layer and distance by its place alone, to be taken off its significance."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from homer.decoder import Decoder
from homer.encoding import Encoder, Piece
from homer.errors import CalibrationError

if TYPE_CHECKING:
    from homer.model import HomerModel


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A bias to be subtracted from significance.

    Attributes:
        bias: (layers, distances), float32; distance is the last token's position minus the token's.
        metadata: model, dtype, RoPE settings, chunk length and segments it was measured with.
    """

    bias: Tensor
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.bias.ndim != 2 or not self.bias.is_floating_point():
            raise CalibrationError(
                f"a calibration is a floating-point tensor (layers, distances), not {self.bias.dtype} "
                f"of shape {tuple(self.bias.shape)}"
            )
        if not torch.isfinite(self.bias).all():
            raise CalibrationError("the calibration holds values that are not finite: measure it again")

    @property
    def distances(self) -> int:
        """How far apart two tokens may be."""
        return int(self.bias.shape[1])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write safetensors with JSON metadata."""
        save_file({"bias": self.bias.contiguous()}, path, {"homer_calibration": json.dumps(self.metadata)})

    def check_fits(self, layers: int, longest: int) -> None:
        """Raise CalibrationError unless it covers `layers` layers and chunks of `longest` positions."""
        if self.bias.shape[0] != layers:
            raise CalibrationError(
                f"the calibration is for {self.bias.shape[0]} layers, the model has {layers}: give the model's own"
            )
        if self.distances < longest:
            raise CalibrationError(
                f"the calibration covers {self.distances} distances, a chunk here spans {longest} positions: "
                f"lower max_chunk_len to {self.distances}, or calibrate with longer segments"
            )


def load_calibration(source: str | os.PathLike[str] | Tensor | Calibration) -> Calibration:
    """A calibration from a safetensors file, an official `.pt` file, a tensor, or as it is.

    Raises:
        CalibrationError: no such file, a damaged one, or a wrong shape.
    """
    if isinstance(source, Calibration):
        return source
    if isinstance(source, Tensor):
        return Calibration(source.detach().float())
    path = Path(source)
    if not path.is_file():
        raise CalibrationError(f"no calibration at {path}: check the path, or measure one with homer.calibrate")
    return _load_pt(path) if path.suffix in (".pt", ".pth", ".bin") else _load_safetensors(path)


def calibrate(
    model: HomerModel,
    texts_or_ids: Iterable[str | Sequence[int] | Tensor] | str | Tensor,
    *,
    segments: int = 100,
    segment_len: int | None = None,
    batch_size: int = 4,
    progress: bool = False,
) -> Calibration:
    """Measure a calibration on text like the text to be compressed.

    At every layer, the mean over segments of the largest logit over heads that the last token of a
    segment gives each distance.

    Args:
        texts_or_ids: texts, or token ids where the model has no tokenizer; joined, then cut into segments.
        segments: how many to take, spread over all text; the paper takes 100 of WikiText-103.
        segment_len: tokens of a segment. None: the model's max_chunk_len.

    Returns:
        A Calibration of shape (layers, segment_len).

    Raises:
        CalibrationError: less text than one segment.

    Source: Song et al., ICLR 2024, section 3.3.
    """
    decoder = model.decoder
    length = segment_len or model.config.resolve(decoder.window, decoder.layers, decoder.sliding_window).max_chunk_len
    rows = _segments(_all_ids(model, texts_or_ids), length, segments)
    total = torch.zeros(decoder.layers, length, dtype=torch.float64)
    batches = tqdm(torch.split(rows, batch_size), desc="calibrating", disable=not progress)
    for batch in batches:
        total += _loudness(decoder, batch)
    metadata = {
        "model": model.name,
        "dtype": str(decoder.dtype),
        "rope": decoder.rope,
        "segment_len": length,
        "segments": len(rows),
    }
    return Calibration((total / len(rows)).float(), metadata)


def _loudness(decoder: Decoder, ids: Tensor) -> Tensor:
    """Sum over a batch (batch, length) of the largest logit over heads: (layers, distances)."""
    positions = torch.arange(ids.shape[1], device=decoder.device).expand(len(ids), -1)
    observed = decoder.run(0, decoder.layers, ids.to(decoder.device), positions, range(decoder.layers)).observed
    return torch.stack([observed[i].amax(1).double().sum(0).flip(0).cpu() for i in range(decoder.layers)])


def _all_ids(model: HomerModel, source: Any) -> Tensor:
    parts = [source] if isinstance(source, str | Tensor) else list(source)
    if parts and isinstance(parts[0], int):
        parts = [parts]
    if any(isinstance(part, str) for part in parts):
        encoder = Encoder(model.require_tokenizer("calibrate on text"))
        parts = [encoder.encode(Piece(part)).ids if isinstance(part, str) else part for part in parts]
    return torch.cat([torch.as_tensor(part).flatten().long() for part in parts] or [torch.zeros(0).long()])


def _segments(ids: Tensor, length: int, wanted: int) -> Tensor:
    available = len(ids) // length
    if available < 1:
        raise CalibrationError(f"{len(ids)} tokens of text, but one segment takes {length}: give more text")
    rows = ids[: available * length].view(available, length)
    chosen = torch.linspace(0, available - 1, min(wanted, available)).round().long()
    return rows[chosen]


def _load_pt(path: Path) -> Calibration:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CalibrationError(f"{path} is damaged, or more than tensors ({error}): give the original file") from None
    if isinstance(loaded, list | tuple):
        try:
            loaded = torch.stack([torch.as_tensor(row) for row in loaded])
        except (TypeError, ValueError, RuntimeError) as error:
            raise CalibrationError(f"{path} holds no rows of equal length, one a layer: {error}") from None
    if not isinstance(loaded, Tensor):
        raise CalibrationError(f"{path} holds a {type(loaded).__name__}, not a tensor or a list of rows, one a layer")
    return Calibration(loaded.float(), {"file": path.name})


def _load_safetensors(path: Path) -> Calibration:
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            if "bias" not in names:
                raise CalibrationError(f"{path} has no tensor 'bias': give a file that Calibration.save wrote")
            return Calibration(
                file.get_tensor("bias").float(), json.loads((file.metadata() or {}).get("homer_calibration", "{}"))
            )
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CalibrationError(f"{path} is damaged or no safetensors file ({error}): measure it again") from None
