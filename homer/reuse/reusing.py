"""Reusing: what a HomerModel does with contexts that are encoded once and asked many times."""

from __future__ import annotations

import dataclasses
import logging
import numbers
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from homer.backends.reference import Decoder
from homer.base.arguments import check_list, check_whole
from homer.config import HomerConfig, ResolvedConfig
from homer.errors import CacheError, ConfigError, InputError
from homer.merging.cache import CompactCache
from homer.merging.merge import LeafSource, Node, Watcher, compress
from homer.plan.schedule import MergePlan, plan_for
from homer.plan.sight import Sight, needed
from homer.reuse.encoded import EncodedContext, EncodedLeaves
from homer.reuse.leaves import ContextLeaves
from homer.reuse.store import StateStore
from homer.significance.base import scoring_for
from homer.significance.calibration import Calibration
from homer.significance.choosing import as_significance, settled
from homer.text.ids import TokenIds, check_ids
from homer.text.prompt import Document, DocumentLike, Prompt, PromptBuilder

logger = logging.getLogger(__name__)

DEFAULT_BUDGET = 64
_USUAL_SUFFIX = 256  # tokens that the suffix of an ordinary question does not exceed
ALIGNMENTS = ("tokens", "documents")
_STRETCHED = ("dynamic", "longrope")  # RoPE whose angles depend on the longest position in a call


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What is to be encoded."""

    prefix_ids: Tensor
    context_ids: Tensor
    documents: tuple[Document, ...] = ()
    origins: Tensor | None = None
    system: str | None = None


class Reusing:
    """The part of HomerModel that encodes contexts once."""

    decoder: Decoder
    calibration: Calibration | None
    tokenizer: Any
    config: HomerConfig
    name: str

    if TYPE_CHECKING:  # HomerModel's
        _sight: Sight

        def _settle(self, config: HomerConfig, whole: int | None = None) -> ResolvedConfig: ...

        def _whole(self, config: ResolvedConfig, length: int) -> ResolvedConfig: ...

        def require_tokenizer(self, purpose: str) -> Any: ...  # noqa: D102

    def encode(
        self,
        documents_or_ids: Sequence[DocumentLike] | TokenIds | EncodedContext,
        *,
        prefix: TokenIds | None = None,
        system: str | None = None,
        suffix_budget: int = DEFAULT_BUDGET,
        align: str = "tokens",
        config: HomerConfig | None = None,
        store: StateStore | None = None,
        pinned: bool = False,
        progress: bool = False,
    ) -> EncodedContext:
        """Run a context through the leaves' layers, once for all questions of `suffix_budget` tokens at most.

        A question asked of the result gets the answer that it would get from the documents themselves, to rounding,
        with the same suffix_budget in HomerConfig; it costs its own tokens in the leaves, and the levels above.

        Args:
            documents_or_ids: documents as in `ask`, or token ids (n,) of a context; or an EncodedContext, to
                encode the same again with another budget.
            prefix: token ids in front of a context of ids; not for documents, whose prefix the chat template makes.
            system: as in `ask`.
            suffix_budget: room for a question with all that the chat template puts behind documents, in tokens.
            align: "tokens" for leaves of equal length, and none at all where the context fits the window; with
                "documents" no leaf spans two documents, and a document's leaves are the same in any company.
            config: for this call, in place of the model's own.
            store: where states are looked for, and put.
            pinned: keep the states in the CPU's memory, pinned where there is a GPU.
            progress: show a progress bar, a step a leaf.

        Raises:
            InputError: no documents, none that holds text, bad ids, or a prefix for documents.
            ConfigError: a budget below 1, one that leaves a chunk no room, or a RoPE that changes with length.
        """
        if isinstance(documents_or_ids, EncodedContext):
            earlier = documents_or_ids
            values = {name: getattr(earlier, name) for name in ("documents", "origins", "system")}
            parts = _Parts(earlier.prefix_ids, earlier.context_ids, **values)
            align = "tokens" if earlier.document_lens is None else "documents"
            config = config or earlier.given
        else:
            parts = self._parts(documents_or_ids, prefix, system)
        return self._encode(parts, suffix_budget, align, config, store, pinned, progress)

    def compress_encoded(
        self,
        encoded: EncodedContext,
        suffix_ids: TokenIds,
        *,
        question_span: tuple[int, int] | None = None,
        reencode: bool = False,
        progress: bool = False,
        watch: Watcher | None = None,
    ) -> CompactCache:
        """The compact cache that `compress` would give with the context's settings; runs the suffix only.

        Args:
            question_span: as in `compress`.
            reencode: encode the context anew for a suffix beyond the budget, in place of an error.
            progress, watch: as in `compress`.

        Raises:
            InputError: a suffix longer than suffix_budget, or bad ids.
            CacheError: a context that another model encoded.
        """
        if encoded.fingerprint != self.decoder.fingerprint:
            raise CacheError(
                f"this context was encoded by {encoded.model} ({encoded.fingerprint[:8]}), not by {self.name} "
                f"({self.decoder.fingerprint[:8]}): encode it with this model"
            )
        suffix = check_ids("suffix_ids", suffix_ids, self.decoder.vocabulary)
        if reencode and len(suffix) > encoded.suffix_budget:
            encoded = self.encode(encoded, suffix_budget=len(suffix), progress=progress)
            encoded = dataclasses.replace(encoded, cached_tokens=0)
        encoded.check_suffix(len(suffix))
        lengths = len(encoded.prefix_ids), len(encoded.context_ids), len(suffix)
        plan = plan_for(encoded.config, self.decoder.layers, lengths, encoded.document_lens)
        ids = torch.cat([encoded.prefix_ids, encoded.context_ids, suffix])
        cached = len(encoded) if encoded.cached_tokens is None else encoded.cached_tokens
        return self._fold(
            *(ids, plan, encoded.config, encoded.document_lens, question_span), progress=progress, watch=watch,
            source=EncodedLeaves(self.decoder, encoded, plan), cached_tokens=cached,
        )  # fmt: skip

    def build_encoded_prompt(self, question: str, encoded: EncodedContext, system: str | None = None) -> Prompt:
        """The prompt that asks a question of encoded documents.

        Raises:
            InputError: a context of token ids, which knows no prompt, an empty question, or another system message.
        """
        encoded.check_settings(system=None if system == encoded.system else system)
        if not encoded.documents or encoded.origins is None:
            raise InputError("this context was encoded from token ids: give compress(encoded, suffix_ids) the suffix")
        builder = PromptBuilder(self.require_tokenizer("ask"))
        prefix_ids, suffix_ids, span = builder.build_affix(question, encoded.system)
        if not torch.equal(prefix_ids, encoded.prefix_ids):
            raise InputError(
                "this context was encoded behind another prefix than the chat template now makes: encode it"
            )
        return Prompt(
            prefix_ids, encoded.context_ids, suffix_ids, encoded.documents, encoded.origins, question, span, encoded
        )

    def encode_prompt(
        self,
        prompt: Prompt,
        store: StateStore,
        *,
        config: HomerConfig | None = None,
        progress: bool = False,
        tick: Callable[[], None] = lambda: None,
    ) -> Prompt:
        """A prompt with its documents encoded, each by itself, from a store as far as they are there.

        Usage will call cached what came from the store. Room is kept by `budget_for`, so that most questions find
        what others left.

        Args:
            config, progress: as in `encode`.
            tick: called after every batch of leaves; what it raises ends the work.
        """
        config = self._sight.cutting(config or self.config)
        chunk_len = self._sight.resolve(config).max_chunk_len
        budget = budget_for(len(prompt.suffix_ids), len(prompt.prefix_ids), chunk_len)
        parts = _Parts(prompt.prefix_ids, prompt.context_ids, prompt.documents, prompt.origins)
        encoded = self._encode(parts, budget, "documents", config, store, False, progress, tick)
        return dataclasses.replace(prompt, encoded=dataclasses.replace(encoded, cached_tokens=encoded.reused_tokens))

    def _parts(self, given: Any, prefix: TokenIds | None, system: str | None) -> _Parts:
        if not isinstance(given, Tensor):
            given = check_list("documents_or_ids", given, "documents, or of token ids")
        if isinstance(given, Tensor) or (given and isinstance(given[0], numbers.Integral)):
            if prefix is None or system is not None:
                raise InputError("a context of token ids needs prefix=, ids as well (maybe none), and no system=")
            sides = ("prefix", prefix), ("documents_or_ids", given)
            prefix_ids, context_ids = (check_ids(name, ids, self.decoder.vocabulary) for name, ids in sides)
            return _Parts(prefix_ids, context_ids)
        if prefix is not None:
            raise InputError("prefix is for token ids: what stands before documents is made of system=")
        prompt = PromptBuilder(self.require_tokenizer("encode documents")).build("?", given, system)
        return _Parts(prompt.prefix_ids, prompt.context_ids, prompt.documents, prompt.origins, system)

    def _encode(
        self,
        parts: _Parts,
        suffix_budget: int,
        align: str,
        config: HomerConfig | None,
        store: StateStore | None,
        pinned: bool,
        progress: bool,
        tick: Callable[[], None] = lambda: None,
    ) -> EncodedContext:
        if align not in ALIGNMENTS:
            raise ConfigError(f"align={align!r} is unknown: give one of {', '.join(ALIGNMENTS)}")
        check_whole("suffix_budget", suffix_budget, 1, error=ConfigError)
        given = dataclasses.replace(config or self.config, suffix_budget=suffix_budget)
        lengths = len(parts.prefix_ids), len(parts.context_ids), 1  # leaves are the same for any suffix in budget
        whole = needed(given, lengths)
        resolved = self._sight.resolve(given, whole)
        cut = self.decoder.sliding_window is None or whole > resolved.max_chunk_len
        lens = _document_lens(parts) if align == "documents" and cut else None
        if parts.documents and lens is None:
            resolved = self._whole(resolved, whole)
        if resolved == self._sight.resolve(given, whole):
            resolved = self._settle(given, whole)
        self._sight.check(resolved, (lengths[0], lengths[1], suffix_budget))
        plan = plan_for(resolved, self.decoder.layers, lengths, lens)
        self._check_rope(plan.suffix_start + suffix_budget)
        states = ContextLeaves(self.decoder, parts.prefix_ids, parts.context_ids, plan, store, pinned)
        states.tokens_at_once = resolved.max_chunk_len * resolved.chunk_batch_size
        with tqdm(total=len(plan.spans), desc="encoding", unit="leaf", disable=not progress) as bar:
            for done in states.run():
                bar.update(done)
                tick()
        return EncodedContext(
            parts.prefix_ids,
            parts.context_ids,
            resolved,
            lens,
            given=given,
            prefix=states.prefix,
            leaves=states.leaves,
            model=self.name,
            fingerprint=self.decoder.fingerprint,
            documents=parts.documents,
            origins=parts.origins,
            system=parts.system,
            reused_tokens=states.reused,
        )

    def _check_rope(self, longest: int) -> None:
        rope = self.decoder.rope
        original = rope.get("original_max_position_embeddings") or self.decoder.window
        if rope.get("rope_type") in _STRETCHED and longest > original:
            raise ConfigError(
                f"chunks of {longest} tokens pass {original}, where this model's {rope['rope_type']} RoPE changes with "
                f"the length: kept states would not fit; set max_chunk_len to {original} at most"
            )

    def _fold(
        self,
        ids: Tensor,
        plan: MergePlan,
        config: ResolvedConfig,
        document_lens: tuple[int, ...] | None,
        question_span: tuple[int, int] | None,
        *,
        progress: bool,
        watch: Watcher | None,
        source: LeafSource | None = None,
        cached_tokens: int = 0,
    ) -> CompactCache:
        """The compact cache of ids (length,) by a plan."""
        config = dataclasses.replace(config, significance=settled(config.significance, self.calibration))
        span = self._question_span(ids[len(ids) - plan.suffix_len :], question_span)
        significance = as_significance(config.significance)
        scoring = scoring_for(significance, self.calibration, self.tokenizer, ids, plan, span)
        logger.info("compressing %d tokens to %d in %d chunks", len(ids), plan.final_len, len(plan.spans))
        with tqdm(total=plan.nodes, desc="compressing", unit="chunk", disable=not progress) as bar:
            result = compress(
                self.decoder,
                plan,
                ids,
                scoring,
                refresh_suffix=config.refresh_suffix,
                chunk_batch_size=config.chunk_batch_size,
                watch=lambda node: _advance(bar, node, plan, watch),
                source=source,
            )
        chunk = result.chunk
        return CompactCache(
            keys=chunk.keys,
            values=chunk.values,
            position_ids=chunk.position_ids,
            kept_tokens=chunk.tokens,
            token_ids=ids[chunk.tokens.cpu()][None],
            relevance=result.relevance.cpu(),
            logits=result.logits,
            input_tokens=len(ids),
            prefix_len=plan.prefix_len,
            suffix_len=plan.suffix_len,
            model=self.name,
            fingerprint=self.decoder.fingerprint,
            config=HomerConfig(**config.to_dict()),
            survived=result.survived,
            document_lens=document_lens,
            cached_tokens=cached_tokens,
        )

    def _question_span(self, suffix_ids: Tensor, given: tuple[int, int] | None) -> tuple[int, int]:
        """(first, end) of the suffix tokens that ask."""
        if given is None:
            whole = (0, len(suffix_ids))
            return whole if self.tokenizer is None else PromptBuilder(self.tokenizer).question_in(suffix_ids)
        if not 0 <= given[0] < given[1] <= len(suffix_ids):
            raise InputError(
                f"question_span={given} is no part of a suffix of {len(suffix_ids)} tokens: give (first, end) with "
                f"0 <= first < end <= {len(suffix_ids)}"
            )
        return given


def budget_for(suffix_len: int, prefix_len: int, chunk_len: int) -> int:
    """The suffix_budget of contexts in a store: the same for every usual suffix, so that all find the same leaves.

    That is a quarter of a chunk, from 64 to 256 tokens; for a longer suffix the next multiple of 64. Prefix and budget
    take half a chunk at most, unless the suffix alone takes more.
    """
    room = max(1, chunk_len // 2 - prefix_len)
    usual = min(room, max(DEFAULT_BUDGET, min(_USUAL_SUFFIX, chunk_len // 4)))
    if suffix_len <= usual:
        return usual
    longer = -(-suffix_len // DEFAULT_BUDGET) * DEFAULT_BUDGET
    return longer if longer <= room else suffix_len


def _document_lens(parts: _Parts) -> tuple[int, ...]:
    """Tokens of the documents in the order in which they stand in the context."""
    if parts.origins is None:
        raise ConfigError('align="documents" needs documents, not token ids: give compress document_lens instead')
    _, counts = torch.unique_consecutive(parts.origins[:, 0], return_counts=True)  # blank documents have no tokens
    return tuple(counts.tolist())


def _advance(bar: tqdm[Any], node: Node, plan: MergePlan, watch: Watcher | None) -> None:
    first, end = plan.layers[node.level]
    if end > first:
        bar.update()
    if watch is not None:
        watch(node)
