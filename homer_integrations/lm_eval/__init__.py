"""lm-evaluation-harness: HOMER as a model of the harness, for RULER, LongBench and whatever else it measures.

`python -m homer_integrations.lm_eval run --model homer --model_args pretrained=DIR --tasks ...`, or `register()` in a
program.
"""

from homer_integrations.lm_eval.harness import HarnessModel, register

__all__ = ["HarnessModel", "register"]
