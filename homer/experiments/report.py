"""Report: what an experiment found, with all that is needed to run it again; as a table, JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from homer.base.version import __version__
from homer.errors import InputError


@dataclasses.dataclass(frozen=True)
class Report:
    """What an experiment found.

    Attributes:
        experiment: "passkey", "needle" or "perplexity".
        measure: the column of `rows` that the table and the figure show: "accuracy" or "perplexity".
        settings: everything that was chosen, the seed included.
        rows: the results, one for each method and length (and depth); None where nothing could be measured.
        cases: what was measured one by one.
        seconds: how long it took.
        curves: perplexity only: for each method (tokens, accumulated perplexity) at many lengths.
        machine, versions, date: where, with what and when.
    """

    experiment: str
    measure: str
    settings: dict[str, Any]
    rows: tuple[dict[str, Any], ...]
    cases: tuple[dict[str, Any], ...]
    seconds: float
    curves: dict[str, list[tuple[int, float]]] = dataclasses.field(default_factory=dict)
    machine: dict[str, Any] = dataclasses.field(default_factory=lambda: machine())
    versions: dict[str, str] = dataclasses.field(default_factory=lambda: versions())
    date: str = dataclasses.field(default_factory=lambda: time.strftime("%Y-%m-%d"))

    @property
    def methods(self) -> list[str]:
        """The methods measured, in the order they ran."""
        return list(dict.fromkeys(row["method"] for row in self.rows))

    @property
    def lengths(self) -> list[int]:
        """The context lengths measured, in tokens, shortest first."""
        return sorted({row["length"] for row in self.rows})

    def value(self, method: str, length: int) -> float | None:
        """The mean of the measure over depths; None where nothing could be measured."""
        rows = [row for row in self.rows if (row["method"], row["length"]) == (method, length)]
        measured = [row for row in rows if row[self.measure] is not None]
        samples = sum(row["samples"] for row in measured)
        return sum(row[self.measure] * row["samples"] for row in measured) / samples if samples else None

    def table(self) -> str:
        """Methods down, context lengths across."""
        header = [self.measure, *(f"{length:,}" for length in self.lengths)]
        lines = [[method, *(_cell(self.value(method, n)) for n in self.lengths)] for method in self.methods]
        return align([header, *lines])

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return dataclasses.asdict(self)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write EXPERIMENT.json and EXPERIMENT.csv (its rows) into a folder, made where it is not there.

        Raises:
            InputError: the folder cannot be written to.
        """
        folder = Path(folder)
        data, rows = folder / f"{self.experiment}.json", folder / f"{self.experiment}.csv"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            data.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            write_csv(rows, self.rows)
        except OSError as error:
            raise InputError(f"cannot write results to {folder} ({error.strerror}): give another folder") from None
        return [data, rows]


def align(cells: Sequence[Sequence[str]]) -> str:
    """Cells as a table of text: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as CSV, with the union of their keys as the header."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def machine() -> dict[str, Any]:
    """The machine this runs on."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    system = f"{platform.system()} {platform.machine()}"
    return {"system": system, "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def versions() -> dict[str, str]:
    """The versions that results may depend on."""
    return {
        "homer": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
