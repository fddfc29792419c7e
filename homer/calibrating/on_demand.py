"""Calibrations measured when first needed, kept in the user's cache folder: once for every model."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from platformdirs import user_cache_path

from homer.base.locks import Lock
from homer.calibrating.base import Measurable
from homer.calibrating.heads import find_heads
from homer.errors import HomerError
from homer.significance.calibration import Calibration, load_calibration

logger = logging.getLogger(__name__)

VERSION = 2  # of what is measured; files of another one are left alone
FOLDER = "HOMER_CALIBRATIONS"  # the environment's variable that names another folder
_LOCK = Lock()


def calibration_folder() -> Path:
    """Where measured calibrations are kept: the user's cache folder, or what HOMER_CALIBRATIONS names."""
    given = os.environ.get(FOLDER)
    return Path(given) if given else user_cache_path("homer-integrations") / "calibrations"


def remembered_path(model: Measurable) -> Path:
    """Where the calibration of a model is kept, whether it was measured yet or not."""
    return calibration_folder() / f"{model.decoder.fingerprint}-{min(model.chunk_len, 2048)}-{VERSION}.safetensors"


def remembered(model: Measurable) -> Calibration | None:
    """The model's calibration by its fingerprint, measured if it is not there; None where that cannot be done.

    Safe for several threads and processes at once; where the folder cannot be written to, only the keeping is lost.
    """
    path = remembered_path(model)
    with _LOCK:
        known = _read(path)
        if known is not None:
            return known
        lock = _lock(path)
        try:
            known = _read(path)  # another process may have been quicker
            return known or _measure(model, path)
        finally:
            if lock is not None:
                lock.release()


def _measure(model: Measurable, path: Path) -> Calibration | None:
    logger.warning(
        "measuring which attention heads of %s find what a question asks for, once for this model (calibration=False "
        "turns it off)", model.name,
    )  # fmt: skip
    try:
        findings = find_heads(model)
    except HomerError as error:
        logger.warning("%s was not measured (%s): significance='auto' is 'paper' for it", model.name, error)
        return None
    facts = {"found": findings.found, "team": findings.team, "questions": findings.questions}
    metadata = {"model": model.name} | facts
    heads = {"question_heads": findings.question_heads, "last_heads": findings.last_heads}
    calibration = Calibration(torch.zeros(model.decoder.layers, 0), metadata, **heads)
    _attempt(functools.partial(_write, calibration, path), path)
    return calibration


def _read(path: Path) -> Calibration | None:
    if not path.is_file():
        return None
    try:
        return load_calibration(path)
    except HomerError as error:
        logger.warning("%s: it is measured anew", error)
        return None


def _write(calibration: Calibration, path: Path) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        calibration.save(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _lock(path: Path) -> FileLock | None:
    lock = FileLock(f"{path}.lock")

    def acquire() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()

    return lock if _attempt(acquire, path) else None


def _attempt(work: Callable[[], None], path: Path) -> bool:
    """Whether it could be done; a folder that is full or read-only is no reason to fail."""
    try:
        work()
    except Exception as error:  # safetensors raises errors of its own for a full disk
        logger.warning("the calibration cannot be kept in %s (%s): it will be measured again", path.parent, error)
        return False
    return True
