"""What a model must offer to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from homer.backends.base import Decoder
from homer.config import HomerConfig
from homer.text.documents import DocumentLike
from homer.text.prompt import Prompt


class Measurable(Protocol):
    """What is asked of a `HomerModel`."""

    decoder: Decoder
    tokenizer: Any
    config: HomerConfig
    name: str

    @property
    def chunk_len(self) -> int:
        """The longest chunk by the model's own settings, in tokens."""

    def build_prompt(self, question: str, documents: Sequence[DocumentLike], *, system: str | None = None) -> Prompt:
        """The prompt that asks a question of documents."""

    def require_tokenizer(self, purpose: str) -> Any:
        """The tokenizer. Raises InputError where there is none."""
