"""HOMER for RAG: hand whole documents to a local LLM by hierarchical context merging (ICLR 2024)."""

from typing import TYPE_CHECKING

from homer.base.arguments import as_title
from homer.base.folder import StoreFolder
from homer.base.locks import Lock
from homer.base.moved import install, old_names
from homer.base.version import __version__
from homer.calibrating.measuring import calibrate
from homer.compat import HomerForCausalLM, patch
from homer.config import HomerConfig
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
from homer.generation.answer_stream import AnswerStream
from homer.generation.sampling import Sampling
from homer.generation.stream import Generation, Stream
from homer.merging.cache import CompactCache
from homer.model import HomerModel
from homer.model.compressor import Compressor
from homer.model.structured import Turn
from homer.plan.schedule import MergePlan, plan_merge
from homer.reuse.encoded import EncodedContext
from homer.reuse.store import StateStore
from homer.significance.base import Observation, Significance
from homer.significance.calibration import Calibration, load_calibration
from homer.significance.question import Question
from homer.significance.standardized import Standardized
from homer.text.constraining.calls import Call, CallPiece, CallReader, Tool, read_calls
from homer.text.constraining.grammar import Grammar
from homer.text.documents import Document
from homer.text.files import read_documents
from homer.text.prompt import Prompt
from homer.text.readers import decode_text
from homer.view.answer import Answer, show
from homer.view.citations import Citation, Cited
from homer.view.compressed import Compressed
from homer.view.sources import Passage, Source, Usage
from homer.view.trace import Trace, TracedDocument

__all__ = [
    "Answer",
    "AnswerStream",
    "CacheError",
    "Calibration",
    "CalibrationError",
    "Call",
    "CallPiece",
    "CallReader",
    "Citation",
    "Cited",
    "CompactCache",
    "Compressed",
    "Compressor",
    "ConfigError",
    "Document",
    "EncodedContext",
    "Generation",
    "GenerationError",
    "Grammar",
    "HomerConfig",
    "HomerError",
    "HomerForCausalLM",
    "HomerModel",
    "InputError",
    "Lock",
    "MergePlan",
    "Observation",
    "Passage",
    "Prompt",
    "Question",
    "Sampling",
    "Significance",
    "Source",
    "Standardized",
    "StateStore",
    "StoreError",
    "StoreFolder",
    "Stream",
    "TimeoutExceededError",
    "Tool",
    "Trace",
    "TracedDocument",
    "Turn",
    "UnsupportedModelError",
    "Usage",
    "__version__",
    "as_title",
    "calibrate",
    "decode_text",
    "load_calibration",
    "patch",
    "plan_merge",
    "read_calls",
    "read_documents",
    "show",
]

install()
if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
