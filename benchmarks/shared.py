"""What the scripts share: the facts of a run, its files, its lines and its clock."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from homer.experiments.report import machine, versions


def facts() -> dict[str, Any]:
    """The machine, the versions that results may depend on, and the day."""
    return {"machine": machine(), "versions": versions(), "date": time.strftime("%Y-%m-%d")}


def chosen(options: Any, *names: str) -> dict[str, Any]:
    """Options by their names."""
    return {name: getattr(options, name) for name in names}


def write_json(path: Path | None, content: Any) -> None:
    """A file of JSON, written anew; nothing where no file was asked for."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def append_line(path: Path | None, row: Any) -> None:
    """One more line of JSON in a file; nothing where no file was asked for."""
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def write_results(folder: Path, name: str, content: dict[str, Any], lines: Sequence[str]) -> None:
    """What was measured as JSON, with the facts of the run, and its table beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", facts() | content)
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def line_of(row: dict[str, Any], *left_out: str) -> str:
    """A row as it is printed, name by name."""
    shown = {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()}
    return "  ".join(f"{name}={value}" for name, value in shown.items() if name not in left_out)


def timed(call: Callable[[], Any], *devices: torch.device) -> tuple[float, Any]:
    """Seconds of a call, until these devices are done, and what it gave."""
    synchronize(*devices)
    start = time.perf_counter()
    result = call()
    synchronize(*devices)
    return time.perf_counter() - start, result


def synchronize(*devices: torch.device) -> None:
    """Wait for GPUs among them."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


@contextlib.contextmanager
def unplanned() -> Iterator[None]:
    """Attention without cuDNN, which would plan for every new length: 64 ms for each token of a plain model."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def free_memory() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
