"""Paper: the method's own significance, less what a token's distance alone makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import Tensor

from homer.significance.base import Observation, Significance
from homer.significance.scores import significance


@dataclasses.dataclass(frozen=True)
class Paper(Significance):
    """The largest logit over heads at the layer that prunes, less the calibration bias.

    Source: Song et al., ICLR 2024, section 3.3.
    """

    reads_sentences = False

    def observe(self, first: int, end: int, layers: int) -> Iterable[int]:
        """The last layer."""
        return (end - 1,)

    def score(self, seen: Observation) -> Tensor:
        """(1, length), of the last layer alone."""
        layer = max(seen.logits)
        known = seen.calibration is not None and seen.calibration.distances > 0
        logits = seen.logits[layer]
        bias = seen.calibration.bias_on(logits.device)[layer] if known and seen.calibration is not None else None
        return significance(logits, seen.position_ids, bias)
