"""Layers of the most common kind, run as weights by `Kernels`; what `fused` and `graph` put together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from homer.backends.blocks import Block, read_blocks
from homer.backends.kernels.plain import Kernels

Rotary = tuple[Tensor, Tensor]


class FusedLayers:
    """The parts of a model's layers, and what stands before the first and behind the last.

    Raises:
        UnknownBlockError: the layers are of a kind not known here.
    """

    def __init__(self, causal_lm: Any, kernels: Kernels) -> None:
        self._causal_lm, self._root = causal_lm, causal_lm.get_decoder()
        self.blocks, self.kernels = read_blocks(causal_lm), kernels
        self.chunked = self.blocks  # the same for whole chunks, whose products may be others
        self.vocabulary = int(self._root.embed_tokens.num_embeddings)
        self.device: torch.device = self._root.embed_tokens.weight.device

    def embed(self, ids: Tensor) -> Tensor:
        """Hidden states (batch, length, hidden size) of token ids."""
        hidden: Tensor = self._root.embed_tokens(ids)
        return hidden

    def project(self, block: Block, x: Tensor, rotary: Rotary, key: Tensor, value: Tensor) -> Tensor:
        """Rotated queries (batch, rows, heads, head dim); rotated keys and values are written to `key`, `value`.

        There are as many rows as `key` has; what stands behind those of x says nothing.
        """
        length, shape, x = x.shape[1], (*x.shape[:-1], -1, block.head_dim), block.query.prepared(x)
        queries, keys = (p(x).view(shape) for p in (block.query, block.key))
        rotated = queries.new_empty(len(queries), key.shape[1], *queries.shape[2:])
        self.kernels.apply_rotary(queries, block.query_norm, block.eps, *rotary, rotated[:, :length])
        self.kernels.apply_rotary(keys, block.key_norm, block.eps, *rotary, key[:, :length])
        block.value.into(x, value[:, :length])
        return rotated

    def finish(self, block: Block, residual: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """The layer behind its attention: the residual stream, and what its last part adds to it."""
        output = block.output(block.output.prepared(attended))
        residual, x = self.kernels.add_norm(residual, output, block.middle_norm, block.eps)
        x = block.gate.prepared(x)
        return residual, block.down(block.down.prepared(self.kernels.silu_and_mul(block.gate(x), block.up(x))))

    def head(self, residual: Tensor, delta: Tensor) -> Tensor:
        """Logits (batch, length, vocabulary) in the model's dtype."""
        _, x = self.kernels.add_norm(residual, delta, self._root.norm.weight, self._root.norm.variance_epsilon)
        logits: Tensor = self._causal_lm.lm_head(x)
        return logits

    def rotary(self, hidden: Tensor, position_ids: Tensor) -> Rotary:
        """Cosines and sines (batch, length, head dim) of positions (batch, length)."""
        result: Rotary = self._root.rotary_emb(hidden, position_ids)
        return result

    def norm(self, residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The residual stream with what is still to be added to it, and its norm."""
        if delta is None:
            return residual, self.kernels.rms_norm(residual, weight, eps)
        return self.kernels.add_norm(residual, delta, weight, eps)

    def room(self, layers: int, hidden: Tensor, rows: int | None = None) -> Tensor:
        """Where the layers' keys and values go, in turn: (2 x layers, batch, rows, key heads, head dim).

        rows: None: as many as there are tokens; what there is more is zeros.
        """
        batch, length = hidden.shape[:2]
        block, rows = self.blocks[0], length if rows is None else rows
        heads = block.key.weight.shape[0] // block.head_dim
        room = hidden.new_empty(2 * layers, batch, rows, heads, block.head_dim)
        if rows > length:
            room[:, :, length:].zero_()
        return room
