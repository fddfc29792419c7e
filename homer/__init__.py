"""HOMER for RAG: hand whole documents to a local LLM by hierarchical context merging (ICLR 2024)."""

from homer._version import __version__
from homer.answer import Answer, Usage, show
from homer.answering import AnswerStream
from homer.arguments import as_title
from homer.cache import CompactCache
from homer.calibration import Calibration, load_calibration
from homer.compat import HomerForCausalLM, patch
from homer.config import HomerConfig
from homer.encoded import EncodedContext
from homer.errors import (
    CacheError,
    CalibrationError,
    ConfigError,
    GenerationError,
    HomerError,
    InputError,
    StoreError,
    TimeoutExceededError,
    UnsupportedModelError,
)
from homer.files import read_documents
from homer.folder import StoreFolder
from homer.measuring import calibrate
from homer.model import HomerModel
from homer.prompt import Document, Prompt
from homer.sampling import Sampling
from homer.schedule import MergePlan, plan_merge
from homer.scoring import Observation, Significance, Standardized
from homer.sources import Passage, Source
from homer.store import StateStore
from homer.streaming import Generation, Stream
from homer.trace import Trace, TracedDocument

__all__ = [
    "Answer",
    "AnswerStream",
    "CacheError",
    "Calibration",
    "CalibrationError",
    "CompactCache",
    "ConfigError",
    "Document",
    "EncodedContext",
    "Generation",
    "GenerationError",
    "HomerConfig",
    "HomerError",
    "HomerForCausalLM",
    "HomerModel",
    "InputError",
    "MergePlan",
    "Observation",
    "Passage",
    "Prompt",
    "Sampling",
    "Significance",
    "Source",
    "Standardized",
    "StateStore",
    "StoreError",
    "StoreFolder",
    "Stream",
    "TimeoutExceededError",
    "Trace",
    "TracedDocument",
    "UnsupportedModelError",
    "Usage",
    "__version__",
    "as_title",
    "calibrate",
    "load_calibration",
    "patch",
    "plan_merge",
    "read_documents",
    "show",
]
