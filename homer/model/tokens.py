"""TokenModel: a language model that compresses and continues token ids."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from homer.backends.devices import Devices, first_of, make_replicas
from homer.backends.fused import make_decoder
from homer.backends.loading import end_ids, load_model
from homer.backends.options import Dtype
from homer.backends.pausing import in_turn
from homer.base.arguments import check_list
from homer.config import HomerConfig, ResolvedConfig
from homer.errors import InputError
from homer.generation.loop import Streams
from homer.generation.sampling import as_sampling
from homer.generation.stream import Generation, Stream
from homer.merging.cache import CompactCache, compact_cache
from homer.merging.joint import Joint
from homer.merging.leaves import Leaves, WholeLeaves
from homer.merging.merge import compress
from homer.merging.node import Node, Watcher
from homer.model.settings import Settings, asks_for_heads
from homer.plan.schedule import MergePlan
from homer.significance.calibration import Calibration, load_calibration
from homer.significance.choosing import as_significance, settled
from homer.significance.scoring import Scoring, scoring_for
from homer.text.ids import TokenIds, check_ids, check_numbers, check_ranks
from homer.text.prompt import span_that_asks
from homer.text.thinking import as_options

logger = logging.getLogger(__name__)


class TokenModel:
    """A loaded causal language model that compresses token ids and goes on from them; see `HomerModel`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any = None,
        config: HomerConfig | None = None,
        calibration: str | os.PathLike[str] | Tensor | Calibration | bool | None = None,
        *,
        fast: bool | str | None = None,
        devices: Devices = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.chat_template_kwargs = {} if tokenizer is None else as_options(tokenizer, chat_template_kwargs)
        self.decoder = make_decoder(model, fast)
        self._joint = Joint(self.decoder)
        self._replicas = make_replicas(model, self.decoder, devices, fast)
        self.config = config or HomerConfig()
        self.calibration = (
            None if calibration is None or isinstance(calibration, bool) else load_calibration(calibration)
        )
        self._measures = calibration is not False
        self.name: str = getattr(model.config, "_name_or_path", "") or type(model).__name__
        self._streams = Streams(self.decoder, self.name, tokenizer, end_ids(model, tokenizer))
        count = 1 if self._replicas is None else len(self._replicas)
        self._settings = Settings(self.decoder, self.name, self._calibrated, count)
        self._settings.resolve(self.config)
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
        fast: bool | str | None = None,
        devices: Devices = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """Load a model and its tokenizer.

        Args:
            name_or_path: a hub id, a folder, a GGUF file, a folder of a PEFT adapter, which names its model, or "mini"
                for the small model that ships with this package.
            dtype: None keeps the dtype of the saved weights, but 16 bits become float32 on a CPU without instructions
                for them ("auto" keeps them); those of a GGUF file become bfloat16 on a GPU, else float32.
                `torch_dtype` is the same.
            device: "cpu", "cuda" or "mps", for all of the model.
            device_map, attn_implementation, quantization_config: as in transformers.
            model_kwargs: all else that transformers' from_pretrained takes, such as gguf_file, revision,
                local_files_only or trust_remote_code; `model_config` stands for its `config`.
            rope_scaling: a factor for YaRN, or transformers' own RoPE settings; the window grows with it.
            fast, devices, chat_template_kwargs: as in HomerModel itself; `devices` stands in place of `device` and
                `device_map`.

        Raises:
            UnsupportedModelError: no such model, one that cannot work, or a missing package; says why.
            ConfigError: an option that nobody knows, or a device that is not there.
        """
        names = ("device_map", "attn_implementation", "quantization_config")
        given = zip(names, (device_map, attn_implementation, quantization_config), strict=True)
        options = model_kwargs | {name: value for name, value in given if value is not None}
        device = first_of(devices, device, options)
        loaded = load_model(name_or_path, dtype, rope_scaling, options, device)
        calibration = loaded.calibration if calibration is None else calibration
        own: dict[str, Any] = {"fast": fast, "devices": devices, "chat_template_kwargs": chat_template_kwargs}
        return cls(loaded.model, loaded.tokenizer, config or loaded.config, calibration, **own)

    @property
    def window(self) -> int:
        """The model's context window in tokens, YaRN included."""
        return self.decoder.window

    @property
    def chunk_len(self) -> int:
        """The longest chunk by the model's own settings, in tokens."""
        return self._settings.resolve(self.config).max_chunk_len

    def compress(
        self,
        prefix_ids: TokenIds,
        context_ids: TokenIds,
        suffix_ids: TokenIds,
        *,
        document_lens: Sequence[int] | None = None,
        document_numbers: TokenIds | None = None,
        document_ranks: TokenIds | None = None,
        question_span: tuple[int, int] | None = None,
        config: HomerConfig | None = None,
        progress: bool = False,
        watch: Watcher | None = None,
    ) -> CompactCache:
        """Compress a context of any length, between a prefix and a suffix that stay whole.

        Args:
            prefix_ids, context_ids, suffix_ids: token ids, 1-D or (1, n).
            document_lens: tokens of every document in the context, where no leaf may span two of them.
            document_numbers: (context tokens,), the number of the document that each is of, -1 for what keeps its
                place. Where given, significance "question" puts what is left of the best document last.
            document_ranks: (context tokens,), the rank of each one's document by a retriever; see `Question.prior`.
            question_span: (first, end) of the suffix tokens that ask. None: all but the chat template's.
            config: for this call, in place of the model's own.
            progress: show a progress bar, a step a chunk.
            watch: called after every node of the tree; what it raises ends the compression.

        Raises:
            InputError: an empty part, ids beyond the vocabulary, an affix that leaves a chunk no room.
            ConfigError: a target below the affix, a chunk beyond the window.

        Source: Song et al., Hierarchical Context Merging, ICLR 2024.
        """
        given = {"prefix_ids": prefix_ids, "context_ids": context_ids, "suffix_ids": suffix_ids}
        parts = [check_ids(name, ids, self.decoder.vocabulary) for name, ids in given.items()]
        lens = None if document_lens is None else tuple(check_list("document_lens", document_lens, "lengths in tokens"))
        resolved, plan = self._settings.plan(config or self.config, [len(part) for part in parts], lens)
        known = check_numbers(document_numbers, len(parts[1])), check_ranks(document_ranks, len(parts[1]))
        return self._compress(
            *(torch.cat(parts), plan, resolved, lens, question_span), known=known, progress=progress, watch=watch
        )

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
        return self._settings.plan(config or self.config, (prefix_len, context_len, suffix_len), document_lens)[1]

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
            options: temperature, top_p, top_k, min_p, seed, stop, repetition_penalty, grammar (see Sampling). Any other
                option of transformers' `generate` is handed to it, such as no_repeat_ngram_size.

        Raises:
            GenerationError: settings out of range, or more tokens than the window leaves.
        """
        return self._streams.open(cache, max_new_tokens, options | {"num_beams": num_beams}).result()

    def stream(self, cache: CompactCache, max_new_tokens: int | None = None, **options: Any) -> Stream:
        """Text as it is generated, an iterator that can be cancelled; options as in `generate`, without beams."""
        return self._streams.own(cache, as_sampling(max_new_tokens, options))

    def share_steps(self, turn: contextlib.AbstractContextManager[object]) -> None:
        """Run every step of generation within a context manager, as a server does that shares a GPU with what it reads.

        Streams of one model take their steps together, so that it is entered once for all of them, by one thread at a
        time, whichever that is.
        """
        self._streams.batch.share = turn

    def require_tokenizer(self, purpose: str) -> Any:
        """The tokenizer. Raises InputError where there is none."""
        if self.tokenizer is None:
            raise InputError(f"{self.name} was loaded without a tokenizer, so it cannot {purpose}: give tokenizer=")
        return self.tokenizer

    def measure(self) -> Calibration | None:
        """A calibration with the heads that find what is asked for; None, since nothing can be asked in ids alone."""
        return None

    def _calibrated(self, significance: Any) -> Calibration | None:
        """The model's calibration, with what the significance needs of it; measured where it is not there yet."""
        known = self.calibration
        lacks_heads = known is None or known.question_heads is None
        needed = (known is None and significance == "auto") or (asks_for_heads(significance) and lacks_heads)
        if needed and self._measures and self.tokenizer is not None:
            measured = self.measure()
            if known is not None and measured is not None:
                measured = dataclasses.replace(
                    known, question_heads=measured.question_heads, last_heads=measured.last_heads,
                    metadata=known.metadata | {"team": measured.metadata.get("team")},
                )  # fmt: skip
            self._measures, self.calibration = measured is not None, measured or known
        return self.calibration

    def _compress(
        self,
        ids: Tensor,
        plan: MergePlan,
        config: ResolvedConfig,
        document_lens: tuple[int, ...] | None,
        question_span: tuple[int, int] | None,
        *,
        progress: bool,
        watch: Watcher | None,
        leaves: Leaves | None = None,
        known: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> CompactCache:
        """The compact cache of ids (length,) by a plan; `known` are numbers and ranks of the context's documents."""
        config = dataclasses.replace(config, significance=settled(config.significance, self.calibration))
        scoring = self._scoring(ids, plan, config, question_span).with_documents(plan, *known)
        logger.info("compressing %d tokens to %d in %d chunks", len(ids), plan.final_len, len(plan.spans))
        joins = leaves is None and self._joint.takes(plan)  # it lines up first, and has its turn after that
        leaves = self._joint if joins else leaves or WholeLeaves(config.chunk_batch_size)
        bar = tqdm(total=plan.nodes, desc="compressing", unit="chunk", disable=not progress)
        with contextlib.nullcontext() if joins else in_turn(), bar:
            result = compress(
                self.decoder,
                plan,
                ids,
                scoring,
                leaves,
                refresh_suffix=config.refresh_suffix,
                watch=lambda node: _advance(bar, node, plan, watch),
                replicas=self._replicas,
            )
            watched = scoring.look.heads.items() if scoring.look and plan.prunes else ()
            heads = tuple((layer, head) for layer, row in watched for head in row)
            facts: dict[str, Any] = {"document_lens": document_lens, "model": self.name, "heads": heads}
            return compact_cache(result, plan, ids, config, fingerprint=self.decoder.fingerprint, **facts)

    def _scoring(
        self, ids: Tensor, plan: MergePlan, config: ResolvedConfig, question_span: tuple[int, int] | None
    ) -> Scoring:
        suffix_ids = ids[len(ids) - plan.suffix_len :]
        span = span_that_asks(self.tokenizer, self.chat_template_kwargs, suffix_ids, question_span)
        significance = as_significance(config.significance)
        return scoring_for(significance, self.calibration, self.tokenizer, ids, plan, span)


def _advance(bar: tqdm[Any], node: Node, plan: MergePlan, watch: Watcher | None) -> None:
    first, end = plan.layers[node.level]
    if end > first:
        bar.update()
    if watch is not None:
        watch(node)
