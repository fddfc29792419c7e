"""Calibration: how loud a token is by its distance alone, at each layer, head and distance; measured by `measuring`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from homer.base.tensorfile import parse_tensors
from homer.errors import CalibrationError
from homer.significance.scores import LEAST_DEVIATION

_TENSORS = ("bias", "means", "deviations", "heads", "question_heads", "last_heads")
_GOOD = 0.5  # of the best head's share: one that a model with few layers below its first pruning can rely on


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What the last token's logits are where there is nothing to be found.

    A file of means and deviations takes 4 bytes x layers x heads x distances: 262 kB for the small model that ships,
    8.4 MB for a model of 7B parameters at chunks of 2,048 tokens.

    Attributes:
        bias: (layers, distances), float32, the largest logit over heads, which the paper's significance subtracts;
            distance is the last token's position minus the token's. (layers, 0) where it was not measured.
        metadata: model, dtype, RoPE settings, chunk length and segments it was measured with.
        means, deviations: (layers, heads, distances), float16, of each head's logits in prompts without the answer,
            which the standardized significance needs; None where they were not measured.
        heads: (layers, heads), float32, the share of synthetic needles that each head found; None likewise.
        question_heads: (layers, heads), float32, the share of questions of which each head gave the passage that
            answers more of the question tokens' attention than any other; `last_heads` the same from the last token.

    `metadata["found"]` tells of how many questions each significance kept the answer: what "auto" goes by;
    `metadata["team"]` which heads find most together, as [layer, head], the best one first.
    """

    bias: Tensor
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    means: Tensor | None = None
    deviations: Tensor | None = None
    heads: Tensor | None = None
    question_heads: Tensor | None = None
    last_heads: Tensor | None = None
    _norms: dict[torch.device, tuple[Tensor, Tensor]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _biases: dict[torch.device, Tensor] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_bias()
        self._check_norms()
        for name in ("heads", "question_heads", "last_heads"):
            self._check_heads(name, getattr(self, name))

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
        if not given:
            return
        layers, distances = self.bias.shape
        fits = [t.ndim == 3 and (t.shape[0], t.shape[2]) == (layers, distances) for t in given]
        if len(given) == 1 or not all(fits) or len({tuple(t.shape) for t in given}) > 1:
            raise CalibrationError(
                f"means and deviations are two tensors ({layers}, heads, {distances}), as the bias has it, not "
                f"{[tuple(t.shape) for t in given]}: measure them again"
            )
        if not all(torch.isfinite(t).all() for t in given):
            raise CalibrationError("the calibration holds values that are not finite: measure it again")

    def _check_heads(self, name: str, heads: Tensor | None) -> None:
        if heads is not None and (heads.ndim != 2 or self.layers != heads.shape[0]):
            raise CalibrationError(
                f"{name} is a tensor ({self.layers}, heads), not {tuple(heads.shape)}: measure it again"
            )
        if heads is not None and not torch.isfinite(heads).all():
            raise CalibrationError("the calibration holds values that are not finite: measure it again")
        if name == "question_heads" and heads is not None:
            self._check_team(*heads.shape)

    def _check_team(self, layers: int, heads: int) -> None:
        try:
            team = self.team
        except (TypeError, ValueError):
            raise CalibrationError('the calibration\'s "team" is no list of [layer, head]: measure it again') from None
        if not all(0 <= layer < layers and 0 <= head < heads for layer, head in team):
            raise CalibrationError(f"the calibration's team names heads beyond ({layers}, {heads}): measure it again")

    def bias_on(self, device: torch.device) -> Tensor:
        """The bias on a device, where it stays: copied in the middle of a run, it would wait for the GPU."""
        if device not in self._biases:
            self._biases[device] = self.bias.to(device)
        return self._biases[device]

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
        """How far apart two tokens may be; 0 where only heads were measured."""
        return int(self.bias.shape[1])

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return int(self.bias.shape[0])

    @property
    def found(self) -> dict[str, float]:
        """Of how many questions each significance kept the answer, where that was measured."""
        return dict(self.metadata.get("found") or {})

    @property
    def team(self) -> tuple[tuple[int, int], ...]:
        """(layer, head) of the heads that find most together, the best one first; none where that was not measured."""
        return tuple((int(layer), int(head)) for layer, head in self.metadata.get("team") or ())

    @property
    def evidence_layer(self) -> int | None:
        """The lowest layer with a head nearly as good as the best, from the question's tokens; None if not known."""
        if self.question_heads is None:
            return None
        good = self.question_heads >= _GOOD * self.question_heads.max()
        if self.team:
            return min([layer for layer, head in self.team if good[layer, head]] or [self.team[0][0]])
        return int(good.any(1).nonzero()[0])

    @functools.cached_property
    def digest(self) -> str:
        """Of all that was measured, as a file of it holds it."""
        return _digest(self._tensors(), json.dumps(self.metadata))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write safetensors with JSON metadata."""
        held, facts = self._tensors(), json.dumps(self.metadata)
        save_file(held, path, {"homer_calibration": facts, "sha256": _digest(held, facts)})

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}

    def check_fits(self, layers: int, longest: int) -> None:
        """Raise CalibrationError unless it covers `layers` layers and chunks of `longest` positions."""
        if self.layers != layers:
            raise CalibrationError(
                f"the calibration is for {self.layers} layers, the model has {layers}: give the model's own"
            )
        if self.distances and self.distances < longest:
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
        given, found = parse_tensors(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{path} is damaged or no safetensors file ({error}): measure it again") from None
    if "bias" not in found:
        raise CalibrationError(f"{path} has no tensor 'bias': give a file that Calibration.save wrote")
    tensors = {name: found[name] for name in _TENSORS if name in found}
    facts = given.get("homer_calibration", "{}")
    if given.get("sha256", _digest(tensors, facts)) != _digest(tensors, facts):
        raise CalibrationError(f"{path} is damaged, its checksum does not fit: measure it again")
    try:
        metadata = dict(json.loads(facts))
    except (ValueError, TypeError, RecursionError) as error:
        raise CalibrationError(f"{path} is damaged ({error}): measure it again") from None
    return Calibration(tensors.pop("bias").float(), metadata, **tensors)


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    """A digest of everything that a file holds."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
