"""Settings of what shortens documents, and the compressor that they come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from homer import Compressed, Compressor, Document, Question
from homer_integrations.shared.settings import LoadSettings

_LENGTHS = ("max_chunk_len", "chunk_batch_size")


class CompressorSettings(LoadSettings):
    """The model, how it is loaded, the budget and what stays whole. Exactly one of the three budgets is given."""

    max_tokens: int | None = Field(default=None, description="Tokens of all that is handed out.")
    max_share: float | None = Field(default=None, description="The same as a share of all tokens.")
    top_k: int | None = Field(default=None, description="So many of the best sentences, passages or documents.")
    keep: str = Field(default="sentences", description='"sentences", "passages" or "documents".')
    marker: str = Field(default="[...]", description="Stands where something was left out.")
    count: Any = Field(
        default=None, exclude=True, description="Gives the tokens of a text; None: by this model's tokenizer."
    )
    max_chunk_len: int | None = Field(default=None, description="The longest leaf.")
    chunk_batch_size: int | None = Field(default=None, description="Leaves at a time; None: as many as fill a GPU.")
    prior: float | None = Field(default=None, description="How much a retriever's scores count; see `homer.Question`.")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)  # the check comes after, since pydantic would wrap the error
        Compressor.check(self.max_tokens, self.max_share, self.top_k, self.keep)

    def shorten(
        self, question: str, documents: Sequence[Document], tick: Callable[[], None] = lambda: None
    ) -> Compressed | None:
        """What is left of documents; None where there is none that holds text.

        Args:
            tick: called between leaves; what it raises ends the work.
        """
        if all(document.blank for document in documents):
            return None
        model = self._load(self.model)
        changed = {name: getattr(self, name) for name in _LENGTHS if getattr(self, name) is not None}
        if self.prior is not None:
            own = model.config.significance
            changed["significance"] = dataclasses.replace(
                own if isinstance(own, Question) else Question(), prior=self.prior
            )
        config = dataclasses.replace(model.config, **changed)
        compressor = Compressor(model, marker=self.marker, count=self.count, config=config)
        budget: dict[str, Any] = {name: getattr(self, name) for name in ("max_tokens", "max_share", "top_k", "keep")}
        return compressor.compress(question, documents, tick=tick, **budget)

    def order(self, found: Compressed) -> list[int]:
        """Which of the documents that are left comes when: whole ones by their scores, shortened ones as they stood."""
        numbers = list(range(len(found.indices)))
        if self.keep != "documents":
            return numbers
        return sorted(numbers, key=lambda number: found.ranking.index(found.indices[number]))
