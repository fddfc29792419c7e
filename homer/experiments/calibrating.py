"""The calibrate command's work: a calibration measured on files, looked at, and written down."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homer.calibrating.measuring import calibrate
from homer.errors import CalibrationError, ConfigError, InputError
from homer.experiments.methods import FilePath, Setup, open_methods
from homer.experiments.report import align, machine, versions, write_csv
from homer.experiments.retrieval import read_text
from homer.significance.calibration import Calibration


def calibrate_files(
    setup: Setup,
    texts: Sequence[FilePath] = (),
    *,
    segments: int = 100,
    segment_len: int | None = None,
    prompts: int = 200,
    heads: bool = False,
    progress: bool = False,
) -> Calibration:
    """Measure a calibration for the one HOMER method of a setup.

    Args:
        texts: text files; the paper takes WikiText-103. None: text that the library has at hand.
        segments, segment_len, prompts, heads: see `homer.calibrate`.

    Raises:
        ConfigError: a setup with another method than one of "homer" and "homer-yarn".
    """
    if len(setup.methods) != 1 or setup.methods[0] not in ("homer", "homer-yarn"):
        raise ConfigError(f"a calibration is for one method, homer or homer-yarn, not for {', '.join(setup.methods)}")
    (method,) = open_methods(dataclasses.replace(setup, calibration="none"))
    return calibrate(
        method.model,
        [read_text(path) for path in texts] or None,
        segments=segments,
        segment_len=segment_len,
        prompts=prompts,
        heads=heads,
        progress=progress,
    )


def calibration_table(calibration: Calibration) -> str:
    """Layers down, distances across (powers of two), the bias in every cell."""
    distances = [0, *(2**i for i in range(calibration.distances.bit_length()) if 2**i < calibration.distances)][::2]
    rows = [
        [f"layer {layer}", *(f"{values[d]:.2f}" for d in distances)]
        for layer, values in enumerate(calibration.bias.tolist())
    ]
    return align([["distance", *map(str, distances)], *rows])


def heads_table(calibration: Calibration, least: float = 0.1) -> str:
    """The heads that found at least so many of the synthetic needles, the best first, one a line.

    Raises:
        CalibrationError: a calibration for which no needles were sought.
    """
    if calibration.heads is None:
        raise CalibrationError("this calibration knows no evidence heads: measure one by homer calibrate --heads")
    shares, order = calibration.heads.flatten().sort(descending=True)
    width = calibration.heads.shape[1]
    rows = [
        [f"layer {head // width} head {head % width}", f"{share:.2f}"]
        for share, head in zip(shares.tolist(), order.tolist(), strict=True)
        if share >= least
    ]
    return align([["evidence head", "needles found"], *rows])


def save_calibration(calibration: Calibration, folder: FilePath, settings: dict[str, Any]) -> Path:
    """Write calibration.safetensors, .json (with machine and versions) and .csv (layer, distance, bias).

    Returns:
        The path of the safetensors file, which is what `--calibration` takes.
    """
    folder = Path(folder)
    facts = {"settings": settings, "metadata": calibration.metadata, "machine": machine(), "versions": versions()}
    rows = (
        {"layer": layer, "distance": distance, "bias": round(value, 5)}
        for layer, values in enumerate(calibration.bias.tolist())
        for distance, value in enumerate(values)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        calibration.save(folder / "calibration.safetensors")
        (folder / "calibration.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        write_csv(folder / "calibration.csv", rows)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): give another folder") from None
    return folder / "calibration.safetensors"
