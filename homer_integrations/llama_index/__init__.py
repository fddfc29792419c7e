"""LlamaIndex: HomerLLM, a synthesizer and a query engine that hand whole nodes to it, and a postprocessor of nodes."""

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: pip install homer-integrations[llama-index]", name=error.name) from None

from homer_integrations.llama_index.choosing import HomerQuestionGenerator, HomerSelector
from homer_integrations.llama_index.encoder import TEXT_QA_TEMPLATE, HomerEncoder
from homer_integrations.llama_index.engine import HomerQueryEngine, HomerSynthesizer
from homer_integrations.llama_index.llm import HomerLLM
from homer_integrations.llama_index.postprocessor import HomerPostprocessor

__all__ = [
    "TEXT_QA_TEMPLATE",
    "HomerEncoder",
    "HomerLLM",
    "HomerPostprocessor",
    "HomerQueryEngine",
    "HomerQuestionGenerator",
    "HomerSelector",
    "HomerSynthesizer",
]
