"""The fast path: the layers of common families run by few, fused kernels instead of by the model's own code.

What it computes is what `Decoder` computes; that one stays the reference, and serves every other model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from homer.attention import watched
from homer.blocks import Block, UnknownBlockError, read_blocks
from homer.decoder import PROBE_LEN, Decoder, LayerOutput, Steps
from homer.errors import UnsupportedModelError
from homer.graph import GraphSteps
from homer.kernels import EAGER, Kernels, compiled

logger = logging.getLogger(__name__)

Rotary = tuple[Tensor, Tensor]


def make_decoder(model: PreTrainedModel, fast: bool | None) -> Decoder:
    """The decoder for a model.

    Args:
        fast: None takes the fast path on a GPU where the model's family allows it; False never does.

    Raises:
        UnsupportedModelError: the model cannot be run piecewise; or `fast` is True and its family is not known.
    """
    if fast is False or (fast is None and model.device.type != "cuda"):
        return Decoder(model)
    try:
        return FastDecoder(model)
    except UnknownBlockError as reason:
        if fast:
            raise UnsupportedModelError(f"{type(model).__name__} has no fast path: {reason}; leave fast=None") from None
        logger.info("%s takes the simple path: %s", type(model).__name__, reason)
        return Decoder(model)


class FastDecoder(Decoder):
    """A decoder whose layers are read as weights and run by `Kernels`.

    Raises:
        UnsupportedModelError: as `Decoder`. UnknownBlockError: the layers are of a kind not known here.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        if self.causal_lm.config.get_text_config()._attn_implementation != watched("sdpa"):
            raise UnknownBlockError("its attention is not sdpa")
        self.blocks = read_blocks(self.causal_lm)
        self.kernels: Kernels = compiled() if self.device.type == "cuda" and find_spec("triton") else EAGER
        self._compare()

    def run(
        self, first: int, end: int, inputs: Tensor, position_ids: Tensor, observe: Iterable[int] = ()
    ) -> LayerOutput:
        """As `Decoder.run`."""
        if not hasattr(self, "blocks"):  # while the reference checks itself
            return super().run(first, end, inputs, position_ids, observe)
        wanted, keys, values, observed = frozenset(observe), [], [], {}
        with torch.no_grad():
            residual = self.embed(inputs) if first == 0 else inputs
            rotary = self.rotary(residual, position_ids)
            delta = None
            for number in range(first, end):
                block = self.blocks[number]
                residual, x = self.norm(residual, delta, block.input_norm, block.eps)
                query, key, value = self.project(block, x, rotary)
                if number in wanted:
                    observed[number] = self.look(query, key)
                keys.append(key.transpose(1, 2))
                values.append(value.transpose(1, 2))
                attended = _attend(query, key, value)
                residual, delta = self.finish(block, residual, attended)
            logits = None
            if end == self.layers and delta is not None:
                logits = self.head(residual[:, -1:], delta[:, -1:])[:, -1]
            hidden = None if end == self.layers else residual if delta is None else residual + delta
        return LayerOutput(hidden, logits, tuple(keys), tuple(values), observed)

    def extend(
        self, ids: Tensor, position_ids: Tensor, cache: DynamicCache, observe: Iterable[int] = (), keep: int = 0
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """As `Decoder.extend`."""
        wanted, observed = frozenset(observe), {}
        length = ids.shape[1]
        with torch.no_grad():
            residual = self.embed(ids)
            rotary = self.rotary(residual, position_ids)
            delta, mask = None, None
            for number, block in enumerate(self.blocks):
                residual, x = self.norm(residual, delta, block.input_norm, block.eps)
                query, new_key, new_value = self.project(block, x, rotary)
                key, value = (
                    t.transpose(1, 2) for t in cache.update(new_key.transpose(1, 2), new_value.transpose(1, 2), number)
                )
                if number in wanted:
                    observed[number] = self.look(query, key)
                if mask is None and length > 1:
                    mask = _mask(length, key.shape[1], key.device)
                residual, delta = self.finish(block, residual, _attend(query, key, value, mask, causal=False))
            rows = slice(-keep if keep else None, None)
            return self.head(residual[:, rows], delta[:, rows], wide=False), observed

    def steps(self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], position: int, room: int) -> Steps:
        """As `Decoder.steps`, by a CUDA graph where there is CUDA."""
        if self.device.type == "cuda":
            return GraphSteps(self, keys, values, position, room)
        return super().steps(keys, values, position, room)

    def embed(self, ids: Tensor) -> Tensor:
        """Hidden states (batch, length, hidden size) of token ids."""
        hidden: Tensor = self._root.embed_tokens(ids)
        return hidden

    def project(self, block: Block, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, rotated keys, and values: (batch, length, heads or key heads, head dim)."""
        query, key, value = (
            projection(x).unflatten(-1, (-1, block.head_dim)) for projection in (block.query, block.key, block.value)
        )
        return (
            self._turn(query, block.query_norm, block.eps, rotary),
            self._turn(key, block.key_norm, block.eps, rotary),
            value,
        )

    def finish(self, block: Block, residual: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """The layer behind its attention: the residual stream, and what its last part adds to it."""
        residual, x = self.kernels.add_norm(residual, block.output(attended), block.middle_norm, block.eps)
        return residual, block.down(self.kernels.gate(block.gate(x), block.up(x)))

    def look(self, query: Tensor, key: Tensor) -> Tensor:
        """The last query's logits (batch, heads, length)."""
        groups = query.shape[2] // key.shape[2]
        last = query[:, -1].unflatten(1, (-1, groups))
        return self.kernels.look(last, key, query.shape[-1] ** -0.5).flatten(1, 2)

    def head(self, residual: Tensor, delta: Tensor, wide: bool = True) -> Tensor:
        """Logits (batch, length, vocabulary); float32 where `wide`."""
        _, x = self.kernels.add_norm(residual, delta, self._root.norm.weight, self._root.norm.variance_epsilon)
        logits: Tensor = self.causal_lm.lm_head(x)
        return logits.float() if wide else logits

    def rotary(self, hidden: Tensor, position_ids: Tensor) -> Rotary:
        """Cosines and sines (batch, length, head dim) of positions (batch, length)."""
        result: Rotary = self._root.rotary_emb(hidden, position_ids)
        return result

    def norm(self, residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The residual stream with what is still to be added to it, and its norm."""
        if delta is None:
            return residual, self.kernels.rms_norm(residual, weight, eps)
        return self.kernels.add_norm(residual, delta, weight, eps)

    def _turn(self, x: Tensor, norm: Tensor | None, eps: float, rotary: Rotary) -> Tensor:
        if norm is None:
            return self.kernels.rotate(x, *rotary)
        return self.kernels.norm_rotate(x, norm, eps, *rotary)

    def _compare(self) -> None:
        """Run a few tokens both ways: what disagrees is of a kind not known here. On the plain kernels, for speed."""
        ids = torch.arange(PROBE_LEN, device=self.device)[None] % self.vocabulary
        positions = torch.arange(PROBE_LEN, device=self.device)[None]
        kernels, self.kernels = self.kernels, EAGER
        ours, reference = self.run(0, self.layers, ids, positions), super().run(0, self.layers, ids, positions)
        self.kernels = kernels
        assert ours.logits is not None and reference.logits is not None
        gap = (ours.logits - reference.logits).abs().max().item()
        if not gap <= 0.02 * max(1.0, reference.logits.abs().max().item()):
            raise UnknownBlockError(f"its logits differ by {gap:.3g} from those of its own code")


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = True) -> Tensor:
    """Attention of (batch, length, heads, head dim) tensors: (batch, length, heads x head dim)."""
    groups = query.shape[2] // key.shape[2]
    grouped = groups > 1 and mask is None and query.dtype != torch.float32  # what the fused kernels know
    if groups > 1 and not grouped:
        key, value = (t.repeat_interleave(groups, 2) for t in (key, value))
    parts = (t.transpose(1, 2) for t in (query, key, value))
    attended = F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
    return attended.transpose(1, 2).flatten(2)


def _mask(queries: int, length: int, device: torch.device) -> Tensor:
    """(queries, length): the last queries of a causal mask."""
    return torch.ones(queries, length, dtype=torch.bool, device=device).tril(length - queries)
