"""The fast path: the layers of common families run by few, fused kernels instead of by the model's own code.

What it computes is what `reference` computes, which serves every other model.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from homer.backends.attending import attend, attend_in_groups, is_planned, last_rows, planned_lens, rows_for
from homer.backends.attention import watched
from homer.backends.base import Decoder, Keep, LayerOutput, Steps, gap_between, not_none, take_rows
from homer.backends.blocks import UnknownBlockError
from homer.backends.entries import Entries
from homer.backends.fp8 import check_fast, in_fp8
from homer.backends.graph import GraphSteps
from homer.backends.graph_slots import GraphSlots
from homer.backends.kernels.plain import EAGER, fresh
from homer.backends.layers import FusedLayers
from homer.backends.pausing import pause
from homer.backends.reference import ReferenceDecoder
from homer.backends.slots import Slots
from homer.errors import UnsupportedModelError
from homer.significance.evidence import QuestionLook

logger = logging.getLogger(__name__)

# (layer, query, new key, new value) to all keys, all values and what the query makes of them
Earlier = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class _Done(NamedTuple):
    """What some layers gave: the residual stream, what is still to be added to it, and what was seen and kept."""

    residual: Tensor
    delta: Tensor | None
    observed: dict[int, Tensor]
    attention: dict[int, Tensor]
    kept: Tensor | None


def make_decoder(model: PreTrainedModel, fast: bool | str | None) -> Decoder:
    """The decoder for a model.

    Args:
        fast: None takes the fast path on a GPU where the model's family allows it; False never does; "fp8" as well
            computes the products of long chunks in 8-bit floats.

    Raises:
        UnsupportedModelError: the model cannot be run piecewise; or `fast` asks for what it, or its device, has not.
        ConfigError: `fast` is something else.
    """
    check_fast(fast, model)
    reference = ReferenceDecoder(model)
    if fast is False or (fast is None and model.device.type != "cuda"):
        return reference
    try:
        return FusedDecoder(reference, fp8=fast == "fp8")
    except UnknownBlockError as reason:
        if fast:
            raise UnsupportedModelError(f"{type(model).__name__} has no fast path: {reason}; leave fast=None") from None
        logger.info("%s takes the simple path: %s", type(model).__name__, reason)
        return reference


class FusedDecoder(Decoder):
    """A decoder whose layers are read as weights and run by kernels.

    Args:
        reference: the same model by its own code, which does what the kernels cannot.
        fp8: whether the products of long chunks are computed in 8-bit floats.

    Raises:
        UnknownBlockError: the layers are of a kind not known here.
    """

    def __init__(self, reference: ReferenceDecoder, *, fp8: bool = False) -> None:
        super().__init__(reference.causal_lm)
        self._reference = reference
        self.parts = FusedLayers(self.causal_lm, EAGER)  # the plain kernels, for speed, while it is compared
        if self.causal_lm.config.get_text_config()._attn_implementation != watched("sdpa"):
            raise UnknownBlockError("its attention is not sdpa")
        self._plans = is_planned(*self._heads_of(2048))
        self._compare()
        self.parts.kernels = fresh(self.device)
        if fp8:
            self.parts.chunked, self.products = in_fp8(self.parts.blocks, self.parts.kernels), "fp8"

    def run(
        self,
        first: int,
        end: int,
        inputs: Tensor,
        position_ids: Tensor,
        observe: Iterable[int] = (),
        keep: Keep | None = None,
        question: QuestionLook | None = None,
        ends: Tensor | None = None,
    ) -> LayerOutput:
        """As `Decoder.run`; what is not kept skips the last layer's feed-forward part."""
        with torch.no_grad(), self._here():
            residual = self.parts.embed(inputs) if first == 0 else inputs
            batch, length = residual.shape[:2]
            stack = self.parts.room(end - first, residual, rows_for(batch, length, self._plans))
            looks: dict[str, Any] = {"keep": keep, "question": question, "last": ends}
            done = self._layers(range(first, end), residual, position_ids, stack, observe, **looks)
            hidden, logits = self._result(end, done)
        entries = Entries.stacked(stack[:, :, :length])
        return LayerOutput(hidden, logits, entries, done.observed, done.attention, done.kept)

    def extend(
        self, ids: Tensor, position_ids: Tensor, cache: DynamicCache, keep: int = 0, mask: Tensor | None = None
    ) -> Tensor:
        """As `Decoder.extend`."""
        with torch.no_grad(), self._here():
            done = self._on_top(self.layers, ids, position_ids, cache, padding=mask)
            rows = slice(-keep if keep else None, None)
            return self.parts.head(done.residual[:, rows], not_none(done.delta)[:, rows])

    def run_after(
        self,
        end: int,
        ids: Tensor,
        position_ids: Tensor,
        cache: DynamicCache,
        observe: Iterable[int] = (),
        mask: Tensor | None = None,
        question: QuestionLook | None = None,
    ) -> LayerOutput:
        """As `Decoder.run_after`."""
        with torch.no_grad(), self._here():
            done = self._on_top(end, ids, position_ids, cache, observe, mask, question)
            hidden, logits = self._result(end, done)
        return LayerOutput(hidden, logits, Entries.of_cache(cache), done.observed, done.attention)

    def replace_last(
        self,
        entries: Entries,
        ids: Tensor,
        position_ids: Tensor,
        observe: Iterable[int] = (),
        question: QuestionLook | None = None,
    ) -> LayerOutput:
        """As `Decoder.replace_last`; in place where the keys and values are views of a stack."""
        if entries.stack is None:
            return self._reference.replace_last(entries, ids, position_ids, observe, question)
        stack = entries.stack
        mask = last_rows(ids.shape[1], entries.length, stack.device)

        def behind(number: int, query: Tensor, new_key: Tensor, new_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            key, value = stack[2 * number : 2 * number + 2]
            return key, value, attend_in_groups(query, key.transpose(1, 2), value.transpose(1, 2), mask)

        with torch.no_grad(), self._here():
            room, numbers = stack[:, :, -ids.shape[1] :], range(len(entries))
            done = self._layers(numbers, self.parts.embed(ids), position_ids, room, observe, behind, question=question)
            hidden, logits = self._result(len(entries), done)
        return LayerOutput(hidden, logits, entries, done.observed, done.attention)

    def steps(self, entries: Entries, position: int, room: int) -> Steps:
        """As `Decoder.steps`, by a CUDA graph where there is CUDA."""
        cuda, given = self.device.type == "cuda", (entries, position, room)
        return GraphSteps(self.parts, *given) if cuda else self._reference.steps(*given)

    def slots(self) -> Slots:
        """As `Decoder.slots`, by a CUDA graph where there is CUDA."""
        return GraphSlots(self.parts) if self.device.type == "cuda" else self._reference.slots()

    def warm_up(self, longest: int) -> None:
        """As `Decoder.warm_up`."""
        with torch.no_grad(), self._here():
            for length in planned_lens(longest) if self._plans else ():
                query, key = self._heads_of(length)
                attend(query, key, key, self._plans)

    def _heads_of(self, length: int) -> tuple[Tensor, Tensor]:
        """Queries and keys of so many tokens, all zero."""
        states = self.parts.embed(torch.zeros(1, length, dtype=torch.long, device=self.device))
        key = self.parts.room(1, states)[0].zero_()
        return key.new_zeros(1, length, self.heads, key.shape[-1]), key

    def _layers(
        self,
        numbers: range,
        residual: Tensor,
        position_ids: Tensor,
        room: Tensor,
        observe: Iterable[int],
        earlier: Earlier | None = None,
        keep: Keep | None = None,
        question: QuestionLook | None = None,
        last: Tensor | None = None,
    ) -> _Done:
        """Some layers in a row; their keys and values are written to `room`, and seen behind earlier ones if any."""
        wanted, observed, attention, length = frozenset(observe), {}, {}, residual.shape[1]
        rotary = self.parts.rotary(residual, position_ids)
        delta: Tensor | None = None  # what a layer adds waits for the next norm: addition and norm are one kernel
        kept: Tensor | None = None
        for index, number in enumerate(numbers):
            block, (key, value) = self.parts.chunked[number], room[2 * index : 2 * index + 2]
            residual, x = self.parts.norm(residual, delta, block.input_norm, block.eps)
            query = self.parts.project(block, x, rotary, key, value)
            if earlier is None:
                attended = attend(query, key, value, self._plans)[:, :length]
                query, key = query[:, :length], key[:, :length]
            else:
                key, value, attended = earlier(number, query, key, value)
            if number in wanted:
                queries = take_rows(query, last)
                observed[number] = self.parts.kernels.last_query_logits(queries, key, block.head_dim**-0.5)
            if question is not None and number in question.heads:
                sides = query.transpose(1, 2), key.transpose(1, 2)
                attention[number] = question.attention(number, *sides, block.head_dim**-0.5)
            if number == numbers[-1]:
                kept = last if keep is None else keep(observed, attention)
                residual, attended = take_rows(residual, kept), take_rows(attended, kept)
            residual, delta = self.parts.finish(block, residual, attended)
            pause()
        return _Done(residual, delta, observed, attention, kept)

    def _on_top(
        self,
        end: int,
        ids: Tensor,
        position_ids: Tensor,
        cache: DynamicCache,
        observe: Iterable[int] = (),
        padding: Tensor | None = None,
        question: QuestionLook | None = None,
    ) -> _Done:
        """Layers 0..end-1 over new tokens behind those of a cache. padding: (batch, all tokens), 0 where it is."""
        count = ids.shape[1]
        mask: Tensor | None = None

        def behind(number: int, query: Tensor, new_key: Tensor, new_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            nonlocal mask
            key, value = cache.update(new_key.transpose(1, 2), new_value.transpose(1, 2), number)
            if mask is None and (count > 1 or padding is not None):
                mask = last_rows(count, key.shape[2], key.device)
                mask = mask if padding is None else mask & padding[:, None, None].bool()
            return key.transpose(1, 2), value.transpose(1, 2), attend_in_groups(query, key, value, mask)

        residual = self.parts.embed(ids)
        room = self.parts.room(end, residual)
        return self._layers(range(end), residual, position_ids, room, observe, behind, question=question)

    def _result(self, end: int, done: _Done) -> tuple[Tensor | None, Tensor | None]:
        """Hidden states after layer end-1; or, of the last layer, the next token's logits in float32."""
        if end == self.layers:
            return None, self.parts.head(done.residual[:, -1:], not_none(done.delta)[:, -1:])[:, -1].float()
        return (done.residual if done.delta is None else done.residual + done.delta), None

    def _here(self) -> contextlib.AbstractContextManager[Any]:
        """What makes the model's GPU the current one, which kernels written by hand are launched on."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()

    def _compare(self) -> None:
        """Run a few tokens both ways: what disagrees is of a kind not known here."""
        ours, reference = (decoder.run(0, self.layers, *self.probe()) for decoder in (self, self._reference))
        if (gap := gap_between(ours.logits, reference.logits)) is not None:
            raise UnknownBlockError(f"its logits differ by {gap:.3g} from those of its own code")
