"""HomerModel: a language model that answers from more than its window holds."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from homer.backends.fused import make_decoder
from homer.backends.loading import end_ids, load_model
from homer.backends.options import Dtype
from homer.base.arguments import check_list
from homer.calibrating.on_demand import remembered
from homer.config import HomerConfig, ResolvedConfig
from homer.errors import InputError
from homer.generation.answer import Answer
from homer.generation.answer_stream import AnswerStream
from homer.generation.loop import Streams
from homer.generation.sampling import as_sampling
from homer.generation.stream import Generation, Stream
from homer.merging.cache import CompactCache
from homer.merging.merge import Watcher
from homer.plan.schedule import MergePlan, plan_for
from homer.plan.sight import Sight, needed
from homer.reuse.encoded import EncodedContext
from homer.reuse.reusing import Reusing
from homer.reuse.store import StateStore
from homer.significance.calibration import Calibration, load_calibration
from homer.significance.choosing import settled
from homer.significance.question import Question
from homer.text.conversation import Limits, build_conversation
from homer.text.ids import TokenIds, check_ids
from homer.text.prompt import DocumentLike, Prompt, PromptBuilder
from homer.text.template import Message


class HomerModel(Reusing):
    """A loaded causal language model, its tokenizer, and how contexts are compressed for it.

    The model given is not changed, and all methods may be called from several threads at once.

    Args:
        model: a transformers model; see UnsupportedModelError for what cannot work.
        tokenizer: its tokenizer; not needed where only token ids are used.
        config: None derives everything from the model.
        calibration: a path, a tensor (layers, distances), or a Calibration. None: the heads that find what a question
            asks for are measured when first needed, and kept in the user's cache folder. False: never; the
            significance is then the paper's.
        fast: run the layers of common families (Llama, Mistral, Qwen2, Qwen3) by fused kernels. None: on a GPU,
            where the model allows it. False: always by the model's own code. True: or an error that says why not.

    Raises:
        UnsupportedModelError, ConfigError, CalibrationError: saying what does not fit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any = None,
        config: HomerConfig | None = None,
        calibration: str | os.PathLike[str] | Tensor | Calibration | bool | None = None,
        *,
        fast: bool | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.decoder = make_decoder(model, fast)
        self.config = config or HomerConfig()
        self.calibration = (
            None if calibration is None or isinstance(calibration, bool) else load_calibration(calibration)
        )
        self._measures = calibration is not False
        self.name: str = getattr(model.config, "_name_or_path", "") or type(model).__name__
        self._sight = Sight(self.name, self.decoder.layers, self.decoder.window, self.decoder.sliding_window)
        self._streams = Streams(self.decoder, self.name, tokenizer, end_ids(model, tokenizer))
        self._sight.resolve(self.config)
        if self.calibration is not None:
            self.calibration.check_fits(self.decoder.layers, 0)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        config: HomerConfig | None = None,
        calibration: str | os.PathLike[str] | Tensor | Calibration | bool | None = None,
        dtype: Dtype = None,
        device: str | torch.device | None = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
        quantization_config: Any = None,
        rope_scaling: float | Mapping[str, Any] | None = None,
        fast: bool | None = None,
        **model_kwargs: Any,
    ) -> HomerModel:
        """Load a model and its tokenizer.

        Args:
            name_or_path: a hub id, a folder, a GGUF file, a folder of a PEFT adapter, which names its model, or "mini"
                for the small model that ships with this package.
            dtype: None keeps the dtype of the saved weights; those of a GGUF file become bfloat16 on a GPU, else
                float32. `torch_dtype` is the same.
            device: "cpu", "cuda" or "mps"; device_map, attn_implementation, quantization_config: as in transformers.
            model_kwargs: all else that transformers' from_pretrained takes, such as gguf_file, revision,
                local_files_only or trust_remote_code; `model_config` stands for its `config`.
            rope_scaling: a factor for YaRN, or transformers' own RoPE settings; the window grows with it.
            fast: as in HomerModel itself.

        Raises:
            UnsupportedModelError: no such model, one that cannot work, or a missing package; says why.
            ConfigError: an option that nobody knows, or a device that is not there.
        """
        names = ("device_map", "attn_implementation", "quantization_config")
        given = zip(names, (device_map, attn_implementation, quantization_config), strict=True)
        options = model_kwargs | {name: value for name, value in given if value is not None}
        loaded = load_model(name_or_path, dtype, rope_scaling, options, device)
        calibration = loaded.calibration if calibration is None else calibration
        return cls(loaded.model, loaded.tokenizer, config or loaded.config, calibration, fast=fast)

    @property
    def window(self) -> int:
        """The model's context window in tokens, YaRN included."""
        return self.decoder.window

    def compress(
        self,
        prefix_ids: TokenIds | EncodedContext,
        context_ids: TokenIds,
        suffix_ids: TokenIds | None = None,
        *,
        document_lens: Sequence[int] | None = None,
        question_span: tuple[int, int] | None = None,
        config: HomerConfig | None = None,
        progress: bool = False,
        watch: Watcher | None = None,
    ) -> CompactCache:
        """Compress a context of any length, between a prefix and a suffix that stay whole.

        With a context that `encode` gave, `compress(encoded, suffix_ids)` runs the suffix only: see `compress_encoded`.

        Args:
            prefix_ids, context_ids, suffix_ids: token ids, 1-D or (1, n).
            document_lens: tokens of every document in the context, where no leaf may span two of them.
            question_span: (first, end) of the suffix tokens that ask. None: all but the chat template's.
            config: for this call, in place of the model's own.
            progress: show a progress bar, a step a chunk.
            watch: called after every node of the tree; what it raises ends the compression.

        Raises:
            InputError: an empty part, ids beyond the vocabulary, an affix that leaves a chunk no room.
            ConfigError: a target below the affix, a chunk beyond the window.

        Source: Song et al., Hierarchical Context Merging, ICLR 2024.
        """
        if isinstance(prefix_ids, EncodedContext):
            prefix_ids.check_settings(suffix_ids=suffix_ids, document_lens=document_lens, config=config)
            return self.compress_encoded(
                prefix_ids, context_ids, question_span=question_span, progress=progress, watch=watch
            )
        if suffix_ids is None:
            raise InputError("compress got two parts: give prefix, context and suffix ids")
        given = {"prefix_ids": prefix_ids, "context_ids": context_ids, "suffix_ids": suffix_ids}
        parts = [check_ids(name, ids, self.decoder.vocabulary) for name, ids in given.items()]
        lens = None if document_lens is None else tuple(check_list("document_lens", document_lens, "lengths in tokens"))
        resolved, plan = self._plan(config or self.config, [len(part) for part in parts], lens)
        return self._fold(torch.cat(parts), plan, resolved, lens, question_span, progress=progress, watch=watch)

    def plan(
        self,
        prefix_len: int,
        context_len: int,
        suffix_len: int,
        document_lens: Sequence[int] | None = None,
        *,
        config: HomerConfig | None = None,
    ) -> MergePlan:
        """What `compress` would do with parts of these lengths, without doing it."""
        return self._plan(config or self.config, (prefix_len, context_len, suffix_len), document_lens)[1]

    def _plan(
        self, config: HomerConfig, lengths: Sequence[int], document_lens: Sequence[int] | None
    ) -> tuple[ResolvedConfig, MergePlan]:
        """The settings and the plan; the model is only measured where something is pruned."""
        whole = None if document_lens else needed(config, lengths)
        resolved = self._sight.resolve(config, whole)
        self._sight.check(resolved, lengths)
        plan = plan_for(resolved, self.decoder.layers, lengths, document_lens)
        if plan.prunes or resolved.target_len < resolved.max_chunk_len:
            resolved = self._settle(config, whole)
            plan = plan_for(resolved, self.decoder.layers, lengths, document_lens)
        return resolved, plan

    def forward(self, input_ids: TokenIds, cache: CompactCache) -> Tensor:
        """Logits (1, n, vocabulary) of new tokens (n,) or (1, n) after a cache, which is not changed."""
        cache.check_made_by(self.decoder.fingerprint, self.name)
        ids = check_ids("input_ids", input_ids, self.decoder.vocabulary).to(self.decoder.device)[None]
        if ids.shape[1] < 1:
            raise InputError("input_ids holds 0 tokens: give at least 1")
        positions = cache.next_position + torch.arange(ids.shape[1], device=ids.device)[None]
        return self.decoder.extend(ids, positions, cache.to_dynamic_cache())

    def generate(
        self, cache: CompactCache, max_new_tokens: int | None = None, *, num_beams: int = 1, **options: Any
    ) -> Generation:
        """Generate from a cache, which is not changed; greedy unless asked otherwise.

        Args:
            max_new_tokens: None means 256, or what the window leaves.
            num_beams: above 1, beam search by transformers' own `generate`.
            options: temperature, top_p, top_k, min_p, seed, stop, repetition_penalty (see Sampling). Any other
                option of transformers' `generate` is handed to it, such as no_repeat_ngram_size.

        Raises:
            GenerationError: settings out of range, or more tokens than the window leaves.
        """
        return self._streams.open(cache, max_new_tokens, options | {"num_beams": num_beams}).result()

    def stream(self, cache: CompactCache, max_new_tokens: int | None = None, **options: Any) -> Stream:
        """Text as it is generated, an iterator that can be cancelled; options as in `generate`, without beams."""
        return self._streams.own(cache, as_sampling(max_new_tokens, options))

    def ask(
        self,
        question: str,
        documents: Sequence[DocumentLike] | EncodedContext,
        *,
        system: str | None = None,
        config: HomerConfig | None = None,
        progress: bool = False,
        max_new_tokens: int | None = None,
        **generation: Any,
    ) -> Answer:
        """Answer a question from documents of any length.

        What fits the model's window is simply answered, as the plain model would.

        Args:
            documents: strings, or mappings with `text` and maybe `title`; or what `encode` made of them, which
                knows its system message and settings.
            system: the system message; None for the library's own.
            config, progress: as in `compress`; max_new_tokens, generation: as in `generate`.

        Raises:
            InputError: no documents, none that holds text, or an empty question.
        """
        if isinstance(documents, EncodedContext):
            documents.check_settings(config=config)
        prompt = self.build_prompt(question, documents, system=system)
        options = {"config": config, "progress": progress, "max_new_tokens": max_new_tokens} | generation
        return self.stream_prompt(prompt, **options).answer()

    def stream_prompt(
        self,
        prompt: Prompt,
        *,
        config: HomerConfig | None = None,
        progress: bool = False,
        max_new_tokens: int | None = None,
        store: StateStore | None = None,
        **generation: Any,
    ) -> AnswerStream:
        """The answer to a prompt as it is generated: compressed when the first text is asked for.

        Args:
            store: as in `compress_prompt`.
            config, progress, max_new_tokens, generation: as in `ask`.

        Raises:
            GenerationError: settings out of range.
        """
        self._streams.check(max_new_tokens, generation)  # an error now costs nothing, one after compression does
        if store is None:  # with one, leaves end with documents and are as long or shorter
            self._check_room(prompt, config, max_new_tokens)
        compress = functools.partial(
            self.compress_prompt, prompt, config=config, progress=progress, max_new_tokens=max_new_tokens, store=store
        )
        return AnswerStream(prompt, compress, lambda cache: self._streams.open(cache, max_new_tokens, generation))

    def build_prompt(
        self, question: str, documents: Sequence[DocumentLike] | EncodedContext, *, system: str | None = None
    ) -> Prompt:
        """The prompt that `ask` compresses, by the tokenizer's own chat template."""
        if isinstance(documents, EncodedContext):
            return self.build_encoded_prompt(question, documents, system)
        return PromptBuilder(self.require_tokenizer("ask")).build(question, documents, system)

    def build_chat_prompt(
        self,
        messages: Sequence[Message],
        documents: Sequence[DocumentLike] = (),
        *,
        place: str | None = None,
        documents_first: bool = False,
        config: HomerConfig | None = None,
        max_new_tokens: int | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> Prompt:
        """The prompt of a conversation, by the tokenizer's own chat template.

        With documents, they stand before the question, as in `build_prompt`. Without, the prompt is the chat
        template's own, token for token, where it fits the window; of a longer one, the middle of the longest
        message is the context. Earlier turns stay whole while prefix and suffix take half of max_chunk_len at
        most; beyond that, the oldest join the context.

        Args:
            messages: mappings with `role` (system, user or assistant) and `content`; the last one is the user's.
            place: text that stands once in the messages, where the documents belong; None: before the question.
            documents_first: without a place, they stand before the user's first question, so that their states can
                be kept from turn to turn.
            config, max_new_tokens: as `compress_prompt` will get them.
            tick: called as much text is read; what it raises ends the work.

        Raises:
            InputError: messages that are no conversation, or a bad document.
        """
        builder = PromptBuilder(self.require_tokenizer("chat"), tick=tick)
        limits = Limits(self._whole_len(max_new_tokens), self._sight.resolve(config or self.config).max_chunk_len)
        return build_conversation(builder, messages, documents, limits, place, documents_first)

    def compress_prompt(
        self,
        prompt: Prompt,
        *,
        config: HomerConfig | None = None,
        progress: bool = False,
        max_new_tokens: int | None = None,
        watch: Watcher | None = None,
        tick: Callable[[], None] = lambda: None,
        store: StateStore | None = None,
    ) -> CompactCache:
        """Compress a prompt; left whole where it fits the window together with max_new_tokens.

        Args:
            store: where its documents' states are looked for, and put, where it does not fit; see `encode_prompt`.
            tick: called after every document that is encoded; what it raises ends the compression.
        """
        if store is not None and prompt.encoded is None and len(prompt) > self._whole_len(max_new_tokens):
            prompt = self.encode_prompt(prompt, store, config=config, progress=progress, tick=tick)
        if prompt.encoded is not None:
            asked = prompt.suffix_ids, prompt.question_span
            return self.compress_encoded(
                prompt.encoded, asked[0], question_span=asked[1], progress=progress, watch=watch
            )
        parts = (prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids)
        given = self._fitting(prompt, config, max_new_tokens)
        return self.compress(*parts, question_span=prompt.question_span, config=given, progress=progress, watch=watch)

    def _check_room(self, prompt: Prompt, config: HomerConfig | None, max_new_tokens: int | None) -> None:
        """Raise GenerationError where the window would end before max_new_tokens."""
        encoded = prompt.encoded
        lengths = len(prompt.prefix_ids), len(prompt.context_ids), len(prompt.suffix_ids)
        if encoded is not None:
            plan = plan_for(encoded.config, self.decoder.layers, lengths, encoded.document_lens)
        else:
            plan = self._plan(self._fitting(prompt, config, max_new_tokens), lengths, None)[1]
        as_sampling(max_new_tokens, {}).room(self.window, plan.next_position)

    def _fitting(self, prompt: Prompt, config: HomerConfig | None, max_new_tokens: int | None) -> HomerConfig:
        """The settings, or those of one chunk where the prompt needs no compression."""
        given = config or self.config
        resolved = self._sight.resolve(given)
        reserved = max(0, resolved.suffix_budget - len(prompt.suffix_ids))
        whole = self._whole(resolved, len(prompt) + reserved, max_new_tokens)
        return self._sight.cutting(given) if whole is resolved else whole

    def _whole(self, config: ResolvedConfig, length: int, max_new_tokens: int | None = None) -> ResolvedConfig:
        """The settings for a prompt of a length: one chunk where it needs no compression."""
        if length > self._whole_len(max_new_tokens):
            return config
        whole = max(length, config.max_chunk_len)
        return dataclasses.replace(config, max_chunk_len=whole, target_len=whole, max_initial_chunk_len=None)

    def _whole_len(self, max_new_tokens: int | None) -> int:
        """The longest prompt that needs no compression."""
        as_sampling(max_new_tokens, {})  # an error now costs nothing
        return self.window - (max_new_tokens or min(256, self.window // 8))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, in which nothing is a control token."""
        return PromptBuilder(self.require_tokenizer("tokenize")).encode(text)[0].ids

    def require_tokenizer(self, purpose: str) -> Any:
        """The tokenizer. Raises InputError where there is none."""
        if self.tokenizer is None:
            raise InputError(f"{self.name} was loaded without a tokenizer, so it cannot {purpose}: give tokenizer=")
        return self.tokenizer

    @property
    def chunk_len(self) -> int:
        """The longest chunk by the model's own settings, in tokens."""
        return self._sight.resolve(self.config).max_chunk_len

    def _settle(self, config: HomerConfig, whole: int | None = None) -> ResolvedConfig:
        """The settings by what the model was measured to find, where they ask for that."""
        significance = settled(config.significance, self._calibrated(config.significance))
        heads = significance == "question" or isinstance(significance, Question)
        layer = self.calibration.evidence_layer if heads and self.calibration else None
        return self._sight.resolve(dataclasses.replace(config, significance=significance), whole, layer)

    def _calibrated(self, significance: Any) -> Calibration | None:
        """The model's calibration, with what the significance needs of it; measured where it is not there yet."""
        known = self.calibration
        asks = significance == "question" or isinstance(significance, Question)
        needed = (known is None and significance == "auto") or (
            asks and (known is None or known.question_heads is None)
        )
        if needed and self._measures and self.tokenizer is not None:
            measured = remembered(self)
            if known is not None and measured is not None:
                measured = dataclasses.replace(
                    known, question_heads=measured.question_heads, last_heads=measured.last_heads,
                    metadata=known.metadata | {"team": measured.metadata.get("team")},
                )  # fmt: skip
            self._measures, self.calibration = measured is not None, measured or known
        return self.calibration
