"""The figures that the paper draws: accuracy by length and depth, perplexity by length. Needs matplotlib."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homer.errors import InputError
from homer.experiments.report import Report
from homer.significance.calibration import Calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(report: Report, path: str | os.PathLike[str]) -> Path:
    """Draw a report's figure into a file, PNG, SVG or PDF by its ending.

    Accuracy is a heat map of length and depth for each method; perplexity is one plot of all methods.

    Raises:
        InputError: matplotlib is not installed, or it cannot write such a file.
    """
    heat = report.measure == "accuracy"
    width = 0.9 + max(3.0, 0.8 * len(report.lengths)) * len(report.methods) if heat else 6.4
    figure = _new_figure(width)
    _heat_maps(figure, report) if heat else _curves(figure, report)
    return _save(figure, path)


def draw_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> Path:
    """Draw a calibration's bias by layer and distance into a file. Raises InputError as `draw` does."""
    figure = _new_figure(6.4)
    axis = figure.subplots()
    image = axis.imshow(calibration.bias.numpy(), aspect="auto", origin="lower", interpolation="nearest")
    axis.set_xlabel("distance (tokens)")
    axis.set_ylabel("layer")
    figure.colorbar(image, label="bias")
    return _save(figure, path)


def draw_heads(calibration: Calibration, path: str | os.PathLike[str]) -> Path:
    """Draw the share of synthetic needles that each head found, layer by head, into a file.

    Raises:
        InputError: as `draw` does, or a calibration for which no needles were sought.
    """
    if calibration.heads is None:
        raise InputError("this calibration knows no evidence heads: measure one by homer calibrate --heads")
    figure = _new_figure(6.4)
    axis = figure.subplots()
    image = axis.imshow(calibration.heads.numpy(), vmin=0, vmax=1, aspect="auto", origin="lower")
    axis.set_xlabel("head")
    axis.set_ylabel("layer")
    figure.colorbar(image, label="share of needles found")
    return _save(figure, path)


def _new_figure(width: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "matplotlib is not installed, so there is no figure: pip install homer-integrations[viz]; "
            "the table, JSON and CSV do not need it"
        ) from None
    return Figure(figsize=(width, 3.8), layout="constrained", dpi=150)


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot draw {path} ({error}): give a .png, .svg or .pdf file in a writable folder") from None
    return path


def _heat_maps(figure: Figure, report: Report) -> None:
    """One heat map a method, side by side: lengths across, depths down, accuracy in every cell."""
    depths = sorted({row["depth"] for row in report.rows})
    values = {(row["method"], row["length"], row["depth"]): row["accuracy"] for row in report.rows}
    axes = figure.subplots(1, len(report.methods), sharey=True, squeeze=False)[0]
    image: Any = None
    for axis, method in zip(axes, report.methods, strict=True):
        grid = [[_number(values.get((method, length, depth))) for length in report.lengths] for depth in depths]
        image = axis.imshow(grid, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for row, cells in enumerate(grid):
            for column, value in enumerate(cells):
                text, colour = (
                    ("-", "black") if value != value else (f"{value:.2g}", "white" if value < 0.6 else "black")
                )
                axis.text(column, row, text, color=colour, ha="center", va="center", fontsize=7)
        axis.set_title(method)
        axis.set_xticks(range(len(report.lengths)), [_short(n) for n in report.lengths])
        axis.set_xlabel("context length (tokens)")
    axes[0].set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes[0].set_ylabel("depth")
    figure.colorbar(image, ax=list(axes), label="accuracy")


def _curves(figure: Figure, report: Report) -> None:
    """Accumulated perplexity by length, every method in one plot; log scales on both axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis = figure.subplots()
    for method in report.methods:
        points = report.curves.get(method) or []
        axis.plot([n for n, _ in points], [value for _, value in points], label=method)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(report.lengths, [_short(n) for n in report.lengths])
    axis.minorticks_off()
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.set_xlabel("context length (tokens)")
    axis.set_ylabel("accumulated perplexity")
    axis.grid(alpha=0.3)
    axis.legend()


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else f"{tokens:,}"
