"""EncodedContext: a context that has gone through the leaves' layers once, for any number of questions.

A leaf is prefix + slice + suffix under a causal mask, so the states of prefix and slice do not depend on the question.
A question runs its own few tokens on top of them; pruning and the levels above go on as ever, in `merging`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from homer.config import HomerConfig, ResolvedConfig
from homer.errors import InputError
from homer.reuse.states import LeafStates
from homer.text.documents import Document, document_numbers, document_ranks


@dataclasses.dataclass(frozen=True)
class EncodedContext:
    """What `HomerModel.encode` gives: a context's leaves, up to where a question is needed. Immutable.

    Attributes:
        prefix_ids, context_ids: (n,) each.
        config: the settings that it was encoded with; suffix_budget is the longest suffix that it can take.
        given: the same as they were asked for, before anything was derived from the model or the context.
        document_lens: tokens of every document where leaves end with documents, else None.
        prefix: the prefix's states, the same in every leaf.
        leaves: the states of every leaf's slice.
        model, fingerprint: the name and the digest of the model that made it.
        documents, origins, system: as in Prompt and `encode`, where it was made from documents.
        reused_tokens: tokens of the context whose states came from a store.
        cached_tokens: what the usage of an answer calls cached; None: prefix and context, as they were encoded before.
    """

    prefix_ids: Tensor
    context_ids: Tensor
    config: ResolvedConfig
    document_lens: tuple[int, ...] | None
    given: HomerConfig = dataclasses.field(repr=False)
    prefix: LeafStates = dataclasses.field(repr=False)
    leaves: tuple[LeafStates, ...] = dataclasses.field(repr=False)
    model: str
    fingerprint: str
    documents: tuple[Document, ...] = dataclasses.field(default=(), repr=False)
    origins: Tensor | None = dataclasses.field(default=None, repr=False)
    system: str | None = None
    reused_tokens: int = 0
    cached_tokens: int | None = None

    def __len__(self) -> int:
        return len(self.prefix_ids) + len(self.context_ids)

    @property
    def suffix_budget(self) -> int:
        """The longest suffix that it can take, in tokens."""
        return self.config.suffix_budget

    @property
    def document_numbers(self) -> Tensor | None:
        """As in Prompt; None where it was made from token ids."""
        return None if self.origins is None else document_numbers(self.documents, self.origins)

    @property
    def document_ranks(self) -> Tensor | None:
        """As in Prompt; None where it was made from token ids."""
        return None if self.origins is None else document_ranks(self.documents, self.origins)

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return self.prefix.nbytes + sum(leaf.nbytes for leaf in self.leaves)

    def to_pinned_memory(self) -> EncodedContext:
        """A copy whose leaves lie in the CPU's memory, pinned where there is a GPU, and are fetched as needed."""
        return dataclasses.replace(self, leaves=tuple(leaf.pin() for leaf in self.leaves))

    def check_suffix(self, suffix_len: int) -> None:
        """Raise InputError where a suffix is longer than the budget."""
        if suffix_len > self.suffix_budget:
            raise InputError(
                f"the suffix holds {suffix_len} tokens, but the context was encoded with suffix_budget="
                f"{self.suffix_budget}: encode it with suffix_budget={suffix_len} at least, shorten the question, or "
                f"give compress_encoded reencode=True"
            )

    def check_settings(self, **given: Any) -> None:
        """Raise InputError where anything is given that was settled when the context was encoded."""
        for name, value in given.items():
            if value is not None:
                raise InputError(f"{name} was settled when this context was encoded: leave it out, or encode it anew")
