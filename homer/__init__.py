"""HOMER for RAG: hand whole documents to a local LLM by hierarchical context merging (ICLR 2024)."""

from typing import TYPE_CHECKING

from homer.base.lazy import names_of
from homer.base.moved import install, old_names
from homer.base.version import __version__

if TYPE_CHECKING:
    from homer.base.arguments import as_title
    from homer.base.folder import StoreFolder
    from homer.base.locks import Lock
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
    from homer.generation.answer_stream import AnswerStream, AnswerStreams
    from homer.generation.sampling import Sampling
    from homer.generation.stream import Generation, Stream
    from homer.generation.thoughts import Thought
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
    from homer.text.thinking import Thinking
    from homer.view.answer import Answer, show
    from homer.view.citations import Citation, Cited
    from homer.view.compressed import Compressed
    from homer.view.logprobs import Piece, TokenLogprob
    from homer.view.sources import Passage, Source, Usage
    from homer.view.trace import Trace, TracedDocument

__all__ = [
    "Answer",
    "AnswerStream",
    "AnswerStreams",
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
    "Piece",
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
    "Thinking",
    "Thought",
    "TimeoutExceededError",
    "TokenLogprob",
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

# where they are; imported when they are asked for, so that help and completion of commands need no torch
_MODULES = {
    "base.arguments": "as_title",
    "base.folder": "StoreFolder",
    "base.locks": "Lock",
    "calibrating.measuring": "calibrate",
    "compat": "HomerForCausalLM patch",
    "config": "HomerConfig",
    "errors": "CacheError CalibrationError ConfigError GenerationError HomerError InputError StoreError "
    "TimeoutExceededError UnsupportedModelError",
    "generation.answer_stream": "AnswerStream AnswerStreams",
    "generation.sampling": "Sampling",
    "generation.stream": "Generation Stream",
    "generation.thoughts": "Thought",
    "merging.cache": "CompactCache",
    "model": "HomerModel",
    "model.compressor": "Compressor",
    "model.structured": "Turn",
    "plan.schedule": "MergePlan plan_merge",
    "reuse.encoded": "EncodedContext",
    "reuse.store": "StateStore",
    "significance.base": "Observation Significance",
    "significance.calibration": "Calibration load_calibration",
    "significance.question": "Question",
    "significance.standardized": "Standardized",
    "text.constraining.calls": "Call CallPiece CallReader Tool read_calls",
    "text.constraining.grammar": "Grammar",
    "text.documents": "Document",
    "text.files": "read_documents",
    "text.prompt": "Prompt",
    "text.readers": "decode_text",
    "text.thinking": "Thinking",
    "view.answer": "Answer show",
    "view.citations": "Citation Cited",
    "view.compressed": "Compressed",
    "view.logprobs": "Piece TokenLogprob",
    "view.sources": "Passage Source Usage",
    "view.trace": "Trace TracedDocument",
}

install()
if not TYPE_CHECKING:
    __getattr__ = names_of(__name__, _MODULES, old_names(__name__))
