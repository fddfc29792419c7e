"""Encoding: a context through the leaves' layers, once for all questions."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from homer.backends.base import Decoder
from homer.base.arguments import check_whole
from homer.config import HomerConfig, ResolvedConfig
from homer.errors import ConfigError
from homer.plan.schedule import MergePlan
from homer.reuse.encoded import EncodedContext
from homer.reuse.finding import Slices, Where, find, make
from homer.reuse.states import LeafStates, run_prefix
from homer.text.documents import Document
from homer.text.prompt import Prompt

DEFAULT_BUDGET = 64
_USUAL_SUFFIX = 256  # tokens that the suffix of an ordinary question does not exceed
ALIGNMENTS = ("tokens", "documents")


@dataclasses.dataclass(frozen=True)
class Context:
    """What is to be encoded: ids (n,) of prefix and context, and, as in Prompt, what they were made of."""

    prefix_ids: Tensor
    context_ids: Tensor
    documents: tuple[Document, ...] = ()
    origins: Tensor | None = None
    system: str | None = None

    @classmethod
    def of(cls, source: Prompt | EncodedContext, system: str | None = None) -> Context:
        """The context of a prompt, or of one that was encoded before."""
        system = source.system if isinstance(source, EncodedContext) else system
        return cls(source.prefix_ids, source.context_ids, source.documents, source.origins, system)

    def document_lens(self, align: str) -> tuple[int, ...] | None:
        """Tokens of the documents in the order in which they stand there, where leaves end with documents.

        Raises:
            ConfigError: an alignment that nobody knows, or ids that no documents are known of.
        """
        if align not in ALIGNMENTS:
            raise ConfigError(f"align={align!r} is unknown: give one of {', '.join(ALIGNMENTS)}")
        if align == "tokens":
            return None
        if self.origins is None:
            raise ConfigError('align="documents" needs documents, not token ids: give compress document_lens instead')
        _, counts = torch.unique_consecutive(self.origins[:, 0], return_counts=True)  # blank ones have no tokens
        return tuple(counts.tolist())


def check_budget(suffix_budget: Any) -> None:
    """Raise ConfigError where a budget is no number of tokens."""
    check_whole("suffix_budget", suffix_budget, 1, error=ConfigError)


def encode(
    decoder: Decoder,
    name: str,
    context: Context,
    plan: MergePlan,
    config: ResolvedConfig,
    where: Where,
    *,
    given: HomerConfig,
    document_lens: tuple[int, ...] | None,
) -> EncodedContext:
    """The states of a context's leaves by a plan, found in a store or made.

    Args:
        name: the model's.
        given: the settings as they were asked for; config: what they came to.

    Raises:
        ConfigError: a RoPE that changes with length.
    """
    _check_rope(decoder, plan.suffix_start + config.suffix_budget)
    slices = Slices.of(context.prefix_ids, context.context_ids, plan)
    prefix = run_prefix(decoder, slices.prefix_ids, slices.layers)
    leaves: dict[int, LeafStates] = {}
    with tqdm(total=len(slices.own), desc="encoding", unit="leaf", disable=not where.progress) as bar:

        def add(more: dict[int, LeafStates]) -> None:
            leaves.update(more)
            bar.update(len(more))
            where.tick()

        for number, states in find(decoder, slices, where.store):
            add({number: states})
        reused = sum(map(len, leaves.values()))
        missing = [number for number in range(len(slices.own)) if number not in leaves]
        for made in make(decoder, slices, missing, where, config.max_chunk_len * config.chunk_batch_size):
            add(made)
    return EncodedContext(
        context.prefix_ids,
        context.context_ids,
        config,
        document_lens,
        given=given,
        prefix=prefix,
        leaves=tuple(leaves[number] for number in range(len(slices.own))),
        model=name,
        fingerprint=decoder.fingerprint,
        documents=context.documents,
        origins=context.origins,
        system=context.system,
        reused_tokens=reused,
    )


def budget_for(suffix_len: int, prefix_len: int, chunk_len: int) -> int:
    """The suffix_budget of contexts in a store: the same for every usual suffix, so that all find the same leaves.

    That is a quarter of a chunk, from 64 to 256 tokens. For a longer suffix it doubles, so that a conversation that
    grows crosses few of them: at each, its documents are read anew. Prefix and budget take half a chunk at most,
    unless the suffix alone takes more.
    """
    room = max(1, chunk_len // 2 - prefix_len)
    budget = min(room, max(DEFAULT_BUDGET, min(_USUAL_SUFFIX, chunk_len // 4)))
    while budget < suffix_len and budget < room:
        budget = min(room, 2 * budget)
    return max(budget, suffix_len)


def _check_rope(decoder: Decoder, longest: int) -> None:
    original = decoder.steady_len
    if original is not None and longest > original:
        raise ConfigError(
            f"chunks of {longest} tokens pass {original}, where this model's {decoder.rope['rope_type']} RoPE "
            f"changes with the length: kept states would not fit; set max_chunk_len to {original} at most"
        )
