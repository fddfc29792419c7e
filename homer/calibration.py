"""Calibration: how loud a token is by its place alone, at each layer, head and distance; measured by `measuring`."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from homer.errors import CalibrationError
from homer.significance import LEAST_DEVIATION


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What the last token's logits are where there is nothing to be found.

    A file of means and deviations takes 4 bytes x layers x heads x distances: 262 kB for the small model that ships,
    8.4 MB for a model of 7B parameters at chunks of 2,048 tokens.

    Attributes:
        bias: (layers, distances), float32, the largest logit over heads, which the paper's significance subtracts;
            distance is the last token's position minus the token's.
        metadata: model, dtype, RoPE settings, chunk length and segments it was measured with.
        means, deviations: (layers, heads, distances), float16, of each head's logits in prompts without the answer,
            which the standardized significance needs; None where they were not measured.
        heads: (layers, heads), float32, the share of synthetic needles that each head found; None likewise.
    """

    bias: Tensor
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    means: Tensor | None = None
    deviations: Tensor | None = None
    heads: Tensor | None = None
    _norms: dict[torch.device, tuple[Tensor, Tensor]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self._check_bias()
        self._check_norms()

    def _check_bias(self) -> None:
        if self.bias.ndim != 2 or not self.bias.is_floating_point():
            raise CalibrationError(
                f"a calibration is a floating-point tensor (layers, distances), not {self.bias.dtype} "
                f"of shape {tuple(self.bias.shape)}"
            )
        if not torch.isfinite(self.bias).all():
            raise CalibrationError("the calibration holds values that are not finite: measure it again")

    def _check_norms(self) -> None:
        given = [t for t in (self.means, self.deviations) if t is not None]
        layers, distances = self.bias.shape
        fits = [t.ndim == 3 and (t.shape[0], t.shape[2]) == (layers, distances) for t in given]
        if len(given) == 1 or not all(fits) or len({tuple(t.shape) for t in given}) > 1:
            raise CalibrationError(
                f"means and deviations are two tensors ({layers}, heads, {distances}), as the bias has it, not "
                f"{[tuple(t.shape) for t in given]}: measure them again"
            )
        if not all(torch.isfinite(t).all() for t in given):
            raise CalibrationError("the calibration holds values that are not finite: measure it again")
        if self.heads is not None and (self.heads.ndim != 2 or self.heads.shape[0] != layers):
            raise CalibrationError(
                f"heads is a tensor ({layers}, heads), not {tuple(self.heads.shape)}: measure it again"
            )

    def norms_on(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Means and one over the deviations on a device, (layers, heads, distances) each; None where not measured."""
        if self.means is None or self.deviations is None:
            return None
        if device not in self._norms:
            inverses = 1 / self.deviations.float().clamp(min=LEAST_DEVIATION)
            self._norms[device] = (self.means.to(device), inverses.half().to(device))
        return self._norms[device]

    @property
    def distances(self) -> int:
        """How far apart two tokens may be."""
        return int(self.bias.shape[1])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write safetensors with JSON metadata."""
        tensors = {"bias": self.bias, "means": self.means, "deviations": self.deviations, "heads": self.heads}
        present = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
        save_file(present, path, {"homer_calibration": json.dumps(self.metadata)})

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
    """A calibration from a safetensors file, the folder that `homer calibrate` wrote, or an official `.pt` file.

    A tensor becomes one, and a Calibration stays as it is.

    Raises:
        CalibrationError: no such file, a damaged one, or a wrong shape.
    """
    if isinstance(source, Calibration):
        return source
    if isinstance(source, Tensor):
        return Calibration(source.detach().float())
    path = Path(source)
    path = path / "calibration.safetensors" if path.is_dir() else path  # what homer calibrate writes in a folder
    if not path.is_file():
        raise CalibrationError(f"no calibration at {path}: check the path, or measure one with homer.calibrate")
    return _load_pt(path) if path.suffix in (".pt", ".pth", ".bin") else _load_safetensors(path)


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
            more = {name: file.get_tensor(name) for name in ("means", "deviations", "heads") if name in names}
            metadata = json.loads((file.metadata() or {}).get("homer_calibration", "{}"))
            return Calibration(file.get_tensor("bias").float(), metadata, **more)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CalibrationError(f"{path} is damaged or no safetensors file ({error}): measure it again") from None
