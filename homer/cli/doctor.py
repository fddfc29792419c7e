"""homer doctor: what is installed, what a model will run by, and what it will take."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterator

import torch

from homer.backends.fused import FusedDecoder
from homer.base.arguments import check_whole
from homer.base.version import __version__
from homer.calibrating.on_demand import remembered_path
from homer.config import ResolvedConfig
from homer.errors import UnsupportedModelError
from homer.model import HomerModel
from homer.plan.footprint import bytes_of, peak_bytes
from homer.plan.schedule import MergePlan

PACKAGE = "homer-integrations"
_NEEDED = ("torch", "transformers", "tokenizers", "safetensors")
_OPTIONAL = (
    "accelerate", "langchain-core", "llama-index-core", "fastapi", "uvicorn", "ray", "pypdf", "markitdown",
    "matplotlib", "flash-attn", "triton",
)  # fmt: skip
_QUESTION = "What is asked here is of the length of an ordinary question, or a little longer?"
_PLAIN = "the model's own code"

Line = tuple[str, str]  # what is told of, and what


def environment() -> Iterator[Line]:
    """Versions, processor and accelerators."""
    yield PACKAGE, __version__
    other = _version("homer")
    if other is not None:
        yield "beware", f"another package, homer {other}, is installed too: run `pip uninstall homer`, then install "
        f"{PACKAGE} again"
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "needed", ", ".join(f"{name} {_version(name) or 'missing'}" for name in _NEEDED)
    found = {name: _version(name) for name in _OPTIONAL}
    yield "optional", ", ".join(f"{name} {version}" for name, version in found.items() if version) or "none"
    yield "not there", ", ".join(name for name, version in found.items() if not version) or "none"
    yield "processor", f"{torch.get_num_threads()} of {os.cpu_count()} cores used by torch"
    yield "GPU", _gpus()


def of_model(model: HomerModel, tokens: int = 65_536) -> Iterator[Line]:
    """What a loaded model runs by, and what a context of so many tokens takes.

    Raises:
        InputError: a number of tokens below 1.
    """
    check_whole("tokens", tokens, 1)
    decoder = model.decoder
    kind = type(model.model).__name__
    yield "model", f"{kind}, {decoder.layers} layers, window {decoder.window:,}, {_dtype(model)} on {decoder.device}"
    yield "backend", backend_of(model)
    yield "calibration", _calibration(model)
    config, plan = _planned(model, tokens)
    layers = f"{plan.layers[0][1]} of {decoder.layers} layers run before the first merge"
    kept = f"{plan.final_len:,} of {tokens:,} tokens stay"
    yield "chunks", f"{len(plan.spans)} of at most {max(plan.lengths[0]):,} tokens; {kept}; {layers}"
    yield "memory", _memory(model, tokens, plan, config.chunk_batch_size)


def backend_of(model: HomerModel) -> str:
    """Which code runs the model's layers; where it is not the fast one, why not."""
    if isinstance(model.decoder, FusedDecoder):
        return "fast: fused kernels" + (" and one CUDA graph" if model.decoder.device.type == "cuda" else "")
    if model.decoder.device.type != "cuda":
        where = f"the model lies on {model.decoder.device}"
        mend = "; give --device cuda" if torch.cuda.is_available() else ""
        return f"{_PLAIN}; the fast path is for CUDA, and {where}{mend}"
    try:
        HomerModel(model.model, model.tokenizer, calibration=False, fast=True)
    except UnsupportedModelError as reason:
        return f"{_PLAIN}; {reason}"
    return f"{_PLAIN}, as fast=False asks; the fast path could run it"


def _calibration(model: HomerModel) -> str:
    if model.calibration is not None:
        found = ", ".join(f"{name} {share:.2f}" for name, share in model.calibration.found.items())
        return "there, given or beside the model" + (f"; answers kept: {found}" if found else "")
    path = remembered_path(model)
    if path.is_file():
        return f"remembered in {path}"
    if model.tokenizer is None:
        return "none, and none can be measured without a tokenizer: significance='auto' is the paper's"
    return "none yet: measured once, when something is first compressed, and remembered"


def _memory(model: HomerModel, tokens: int, plan: MergePlan, batch: int) -> str:
    entry, working = bytes_of(model.model.config.get_text_config(), model.decoder.dtype.itemsize)
    above = peak_bytes(plan, entry, working, batch)
    full = tokens * model.decoder.layers * entry
    weights: int = model.model.get_memory_footprint()  # type: ignore[no-untyped-call]
    return (
        f"{_size(weights)} weights; about {_size(above)} above them for {tokens:,} tokens "
        f"(keys and values of them all, as the plain model keeps them: {_size(full)})"
    )


def _planned(model: HomerModel, tokens: int) -> tuple[ResolvedConfig, MergePlan]:
    """Settings and plan; nothing is measured for them."""
    known = model.calibration is not None or remembered_path(model).is_file()
    config = model.config if known else dataclasses.replace(model.config, significance="paper")
    prefix, suffix = 16, 32
    if model.tokenizer is not None:
        prompt = model.build_prompt(_QUESTION, ["text"])
        prefix, suffix = len(prompt.prefix_ids), len(prompt.suffix_ids)
    return model._settings.plan(config, (prefix, max(1, tokens - prefix - suffix), suffix), None)


def _gpus() -> str:
    if torch.cuda.is_available():
        return "; ".join(_gpu(number) for number in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        return "Apple's, by MPS: the plain path runs there"
    if torch.version.cuda is None:
        return "none: this build of torch is for the CPU alone"
    return f"none that torch sees; it is built for CUDA {torch.version.cuda}"


def _gpu(number: int) -> str:
    facts = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    return f"{facts.name}, {_size(free)} of {_size(total)} free, CUDA {torch.version.cuda}"


def _dtype(model: HomerModel) -> str:
    return str(model.decoder.dtype).removeprefix("torch.")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6)):,} MB"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def lines(pairs: Iterator[Line]) -> Iterator[str]:
    """As they are printed, in two columns."""
    return (f"{name:<{len(PACKAGE)}}  {text}" for name, text in pairs)
