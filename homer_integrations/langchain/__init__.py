"""LangChain: ChatHomer, HomerLLM, a documents chain that hands them whole documents, a compressor of documents."""

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: pip install homer-integrations[langchain]", name=error.name) from None

from homer_integrations.langchain.chain import create_homer_documents_chain
from homer_integrations.langchain.chat import ChatHomer
from homer_integrations.langchain.compressor import HomerDocumentCompressor
from homer_integrations.langchain.llm import HomerLLM

__all__ = ["ChatHomer", "HomerDocumentCompressor", "HomerLLM", "create_homer_documents_chain"]
