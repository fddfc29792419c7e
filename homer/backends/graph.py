"""Decoding as one CUDA graph: a token a replay, with no Python between the layers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homer.backends.base import not_none
from homer.backends.entries import Entries
from homer.backends.kernels.plain import ROUND
from homer.backends.layers import FusedLayers

CAPTURE = threading.Lock()


class GraphSteps:
    """One more token at a time on top of given keys and values, which are copied and left as they are.

    Args:
        entries: of all layers, in a batch of one.
        position: position id of the first token.
        room: how many tokens may come.
    """

    def __init__(self, layers: FusedLayers, entries: Entries, position: int, room: int) -> None:
        self._layers = layers
        kept, device = entries.length, layers.device
        capacity = -(-(kept + room) // ROUND) * ROUND
        sides = entries.keys, entries.values
        self._keys, self._values = ([_with_room(t.to(device), capacity) for t in side] for side in sides)
        self.token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self._position = torch.full((1, 1), position, device=device)
        self._column = torch.full((1,), kept, device=device)
        self.logits = torch.zeros(1, layers.vocabulary, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, token: Tensor) -> Tensor:
        """Logits (1, vocabulary), float32, after one more token (of any shape, on any device).

        The next call overwrites them.
        """
        self.token.copy_(token.view(1, 1), non_blocking=True)
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()
        return self.logits

    @torch.no_grad()
    def step(self) -> None:
        """Run the token that waits, and move on by one column."""
        logits = decode(self._layers, self.token, self._position, self._column, self._keys, self._values)
        self.logits.copy_(logits)
        self._position += 1
        self._column += 1

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The graph of one step; the step that warms it up is taken back."""
        stream: Any = torch.cuda.Stream(self._layers.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._layers.device))
        graph = torch.cuda.CUDAGraph()
        with CAPTURE, torch.cuda.stream(stream):
            self.step()  # kernels are compiled and buffers made here, which a capture does not allow
            self._position -= 1
            self._column -= 1
            stream.synchronize()
            graph.capture_begin(capture_error_mode="thread_local")
            self.step()
            graph.capture_end()
        torch.cuda.current_stream(self._layers.device).wait_stream(stream)
        return graph


def decode(
    layers: FusedLayers,
    tokens: Tensor,
    positions: Tensor,
    columns: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
) -> Tensor:
    """One more token in every row: logits (rows, vocabulary) in the model's dtype.

    One row is bound by reading matrices, for which there are kernels; several are matrix products.

    Args:
        tokens, positions: (rows, 1).
        columns: (rows,), where each row's new keys and values go; it sees all up to there.
        keys, values: one (rows, capacity, key heads, head dim) tensor a layer.
    """
    kernels, rows = layers.kernels, len(tokens)
    residual = layers.embed(tokens)
    rotary = layers.rotary(residual, positions)
    delta: Tensor | None = None
    for block, own_keys, own_values in zip(layers.blocks, keys, values, strict=True):
        residual, x = layers.norm(residual, delta, block.input_norm, block.eps)
        parts = (block.query, block.key, block.value)
        projected = kernels.qkv_proj(x, *parts) if rows == 1 else tuple(part(x) for part in parts)
        query, key, value = (t.view(rows, 1, -1, block.head_dim) for t in projected)
        rotated = torch.empty_like(query)
        kernels.apply_rotary(query, block.query_norm, block.eps, *rotary, rotated)
        write = kernels.write_kv if rows == 1 else kernels.write_rows
        write(own_keys, own_values, columns, key, value, block.key_norm, block.eps, *rotary)
        attended = kernels.decode_attention(rotated, own_keys, own_values, columns, block.head_dim**-0.5)
        if rows == 1:
            attended = kernels.matvec(attended, *block.output)
            residual, x = kernels.add_norm(residual, attended, block.middle_norm, block.eps)
            delta = kernels.matvec(kernels.gate_up_proj(x, block.gate, block.up), *block.down)
        else:
            residual, delta = layers.finish(block, residual, attended)
    return layers.head(residual, not_none(delta))[:, 0]


def _with_room(entries: Tensor, capacity: int) -> Tensor:
    """(1, heads, kept, dim) entries in a tensor of (1, capacity, heads, dim)."""
    _, heads, kept, dim = entries.shape
    grown = entries.new_zeros(1, capacity, heads, dim)
    grown[:, :kept] = entries.transpose(1, 2)
    return grown
