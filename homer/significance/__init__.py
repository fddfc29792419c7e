"""Which tokens survive; one idea a file.

In: what the layers of a chunk observed. Out: a score for every token. Read `base` first, then `paper`.
"""

from typing import TYPE_CHECKING

from homer.base.moved import old_names
from homer.significance.base import Custom, Observation, ScoreFunction, Significance
from homer.significance.paper import Paper
from homer.significance.question import Question
from homer.significance.scoring import Scoring, scoring_for
from homer.significance.standardized import Standardized

__all__ = [
    "Custom", "Observation", "Paper", "Question", "ScoreFunction", "Scoring", "Significance", "Standardized",
    "scoring_for",
]  # fmt: skip

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
