"""The significances by name, and which one "auto" stands for."""

from __future__ import annotations

import logging
from typing import Any

from homer.significance.base import Custom, ScoreFunction, Significance
from homer.significance.calibration import Calibration
from homer.significance.paper import Paper
from homer.significance.question import Question
from homer.significance.standardized import Standardized

logger = logging.getLogger(__name__)

NAMED: dict[str, Significance] = {"question": Question(), "standardized": Standardized(), "paper": Paper()}


def settled(given: str | Significance | ScoreFunction, calibration: Calibration | None) -> Any:
    """What "auto" stands for by what the calibration found; anything else as it is."""
    if given != "auto":
        return given
    if calibration is None:
        return "paper"
    found = {name: share for name, share in calibration.found.items() if name in NAMED}
    if found:
        return max(NAMED, key=lambda name: found.get(name, -1.0))  # of equals the first
    return "paper" if calibration.means is None else "standardized"


def as_significance(given: str | Significance | ScoreFunction) -> Significance:
    """What a HomerConfig names, or the function it holds."""
    if isinstance(given, str):
        return NAMED[given]
    return given if isinstance(given, Significance) else Custom(given)
