"""The paper's experiments, and what users trust beside them; the same as functions and as commands.

`from homer.experiments import Setup, passkey, needle, perplexity, draw`; on the command line `homer passkey`,
`homer needle`, `homer perplexity` and `homer calibrate`.
"""

from homer.experiments.calibrating import calibrate_files, calibration_table, save_calibration
from homer.experiments.cases import Case, read_cases, write_cases
from homer.experiments.figures import draw, draw_calibration
from homer.experiments.methods import METHODS, Setup
from homer.experiments.needle import Needles, needle, needle_cases
from homer.experiments.passkey import passkey, passkey_cases
from homer.experiments.perplexity import Segments, perplexity
from homer.experiments.presets import PRESETS, Preset
from homer.experiments.report import Report
from homer.experiments.ruler import RULER_TASKS, ruler_cases

__all__ = [
    "METHODS",
    "PRESETS",
    "RULER_TASKS",
    "Case",
    "Needles",
    "Preset",
    "Report",
    "Segments",
    "Setup",
    "calibrate_files",
    "calibration_table",
    "draw",
    "draw_calibration",
    "needle",
    "needle_cases",
    "passkey",
    "passkey_cases",
    "perplexity",
    "read_cases",
    "ruler_cases",
    "save_calibration",
    "write_cases",
]
