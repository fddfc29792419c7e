"""ContextModel: a language model that encodes contexts once, for any number of questions."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from homer.backends.pausing import in_turn
from homer.base.arguments import check_list
from homer.config import HomerConfig
from homer.errors import CacheError, InputError
from homer.generation.sampling import as_sampling
from homer.merging.cache import CompactCache
from homer.merging.node import Watcher
from homer.model.tokens import TokenModel
from homer.plan.schedule import plan_for
from homer.reuse.encode import DEFAULT_BUDGET, Context, budget_for, check_budget, encode
from homer.reuse.encoded import EncodedContext
from homer.reuse.finding import Where
from homer.reuse.leaves import KeptLeaves
from homer.reuse.store import StateStore
from homer.text.documents import DocumentLike
from homer.text.ids import TokenIds, check_ids
from homer.text.prompt import Prompt, PromptBuilder
from homer.text.thinking import as_options


class ContextModel(TokenModel):
    """A TokenModel that keeps the states of contexts; see `HomerModel`."""

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
        chat_template_kwargs: Mapping[str, Any] | None = None,
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
            chat_template_kwargs: as in `ask`, where the template puts them before documents.

        Raises:
            InputError: no documents, none that holds text, bad ids, or a prefix for documents.
            ConfigError: a budget below 1, one that leaves a chunk no room, or a RoPE that changes with length.
        """
        if isinstance(documents_or_ids, EncodedContext):
            context = Context.of(documents_or_ids)
            align = "tokens" if documents_or_ids.document_lens is None else "documents"
            config = config or documents_or_ids.given
        else:
            context = self._context(documents_or_ids, prefix, system, chat_template_kwargs)
        return self._encode(
            context, suffix_budget, align, config, Where(store, pinned, progress, replicas=self._replicas)
        )

    def encode_prompt(
        self,
        prompt: Prompt,
        store: StateStore,
        *,
        config: HomerConfig | None = None,
        progress: bool = False,
        tick: Callable[[], None] = lambda: None,
    ) -> EncodedContext:
        """A prompt's documents encoded, each by itself, from a store as far as they are there.

        Usage will call cached what came from the store. Room is kept by `budget_for`, so that most questions find
        what others left.

        Args:
            config, progress: as in `encode`.
            tick: called after every batch of leaves; what it raises ends the work.
        """
        config = self._settings.cutting(config or self.config)
        chunk_len = self._settings.resolve(config).max_chunk_len
        budget = budget_for(len(prompt.suffix_ids), len(prompt.prefix_ids), chunk_len)
        where = Where(store, progress=progress, tick=tick, replicas=self._replicas)
        encoded = self._encode(Context.of(prompt), budget, "documents", config, where)
        return dataclasses.replace(encoded, cached_tokens=encoded.reused_tokens)

    def compress_encoded(
        self,
        encoded: EncodedContext,
        suffix_ids: TokenIds,
        *,
        question_span: tuple[int, int] | None = None,
        reencode: bool = False,
        gather_at_once: bool = False,
        progress: bool = False,
        watch: Watcher | None = None,
    ) -> CompactCache:
        """The compact cache that `compress` would give with the context's settings; runs the suffix only.

        Args:
            question_span: as in `compress`.
            reencode: encode the context anew for a suffix beyond the budget, in place of an error.
            gather_at_once: put keys and values together leaf by leaf, in place of once at the end: slower, but of
                states that lie in the CPU's memory no more is held on a GPU than `compress` would hold.
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
        leaves = KeptLeaves(self.decoder, encoded, plan, gather_at_once)
        cache = self._compress(
            *(ids, plan, encoded.config, encoded.document_lens, question_span), progress=progress, watch=watch,
            leaves=leaves, known=(encoded.document_numbers, encoded.document_ranks),
        )  # fmt: skip
        return dataclasses.replace(cache, cached_tokens=cached)

    def _builder(
        self, purpose: str, options: Mapping[str, Any] | None = None, tick: Callable[[], None] = lambda: None
    ) -> PromptBuilder:
        """What builds prompts, by variables of the chat template: a call's over the model's."""
        tokenizer = self.require_tokenizer(purpose)
        return PromptBuilder(tokenizer, self.chat_template_kwargs | as_options(tokenizer, options), tick)

    def _context(
        self, given: Any, prefix: TokenIds | None, system: str | None, options: Mapping[str, Any] | None
    ) -> Context:
        if not isinstance(given, Tensor):
            given = check_list("documents_or_ids", given, "documents, or of token ids")
        if isinstance(given, Tensor) or (given and isinstance(given[0], numbers.Integral)):
            if prefix is None or system is not None:
                raise InputError("a context of token ids needs prefix=, ids as well (maybe none), and no system=")
            sides = ("prefix", prefix), ("documents_or_ids", given)
            prefix_ids, context_ids = (check_ids(name, ids, self.decoder.vocabulary) for name, ids in sides)
            return Context(prefix_ids, context_ids)
        if prefix is not None:
            raise InputError("prefix is for token ids: what stands before documents is made of system=")
        return Context.of(self._builder("encode documents", options).build("?", given, system), system)

    def _prompt_of_encoded(
        self, question: str, encoded: EncodedContext, system: str | None, options: Mapping[str, Any] | None
    ) -> Prompt:
        """The prompt that asks a question of encoded documents.

        Raises:
            InputError: a context of token ids, which knows no prompt, an empty question, or another system message.
        """
        encoded.check_settings(system=None if system == encoded.system else system)
        if not encoded.documents or encoded.origins is None:
            raise InputError("this context was encoded from token ids: give compress_encoded the suffix")
        builder = self._builder("ask", options)
        prefix_ids, suffix_ids, span = builder.build_affix(question, encoded.system)
        if not torch.equal(prefix_ids, encoded.prefix_ids):
            raise InputError(
                "this context was encoded behind another prefix than the chat template now makes: encode it"
            )
        parts = prefix_ids, encoded.context_ids, suffix_ids, encoded.documents, encoded.origins
        return Prompt(*parts, question, span, builder.thinking)

    def _fitting(
        self,
        prompt: Prompt,
        config: HomerConfig | None,
        max_new_tokens: int | None,
        store: StateStore | None,
        encoded: EncodedContext | None,
    ) -> HomerConfig | None:
        """The settings by which a prompt is compressed; None where states of its documents settle them.

        Raises:
            GenerationError: the window would end before max_new_tokens.
        """
        if store is not None:  # leaves end with documents and are as long or shorter
            return None
        if encoded is None:
            return self._settings.fitting_with_room(config or self.config, prompt, max_new_tokens)
        encoded.check_settings(config=config)
        plan = plan_for(encoded.config, self.decoder.layers, prompt.lengths, encoded.document_lens)
        as_sampling(max_new_tokens, {}).room(self.window, plan.next_position)
        return None

    def _encode(
        self, context: Context, suffix_budget: int, align: str, config: HomerConfig | None, where: Where
    ) -> EncodedContext:
        document_lens = context.document_lens(align)
        check_budget(suffix_budget)
        given = dataclasses.replace(config or self.config, suffix_budget=suffix_budget)
        resolved, plan, lens = self._settings.plan_encoding(given, context, document_lens)
        made = self.decoder, self.name, context, plan, resolved, where
        with in_turn():
            return encode(*made, given=given, document_lens=lens)
