"""Decoding as one CUDA graph: a token a replay, with no Python between the layers."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from homer.backends.base import present
from homer.backends.kernels.plain import ROUND
from homer.backends.layers import FusedLayers

_CAPTURE = threading.Lock()


class GraphSteps:
    """One more token at a time on top of given keys and values, which are copied and left as they are.

    Args:
        keys, values: one (1, key heads, kept, head dim) tensor a layer.
        position: position id of the first token.
        room: how many tokens may come.
    """

    def __init__(
        self, layers: FusedLayers, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], position: int, room: int
    ) -> None:
        self._layers = layers
        kept, device = keys[0].shape[2], layers.device
        capacity = -(-(kept + room) // ROUND) * ROUND
        self._keys, self._values = ([_places(t.to(device), capacity) for t in side] for side in (keys, values))
        self.token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self._position = torch.full((1, 1), position, device=device)
        self._place = torch.full((1,), kept, device=device)
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
        """Run the token that waits, and move on by one place."""
        layers, kernels = self._layers, self._layers.kernels
        residual = layers.embed(self.token)
        rotary = layers.rotary(residual, self._position)
        delta: Tensor | None = None
        for block, keys, values in zip(layers.blocks, self._keys, self._values, strict=True):
            residual, x = layers.norm(residual, delta, block.input_norm, block.eps)
            query, key, value = (
                t.view(1, 1, -1, block.head_dim) for t in kernels.qkv_proj(x, block.query, block.key, block.value)
            )
            turned = torch.empty_like(query)
            kernels.apply_rotary(query, block.query_norm, block.eps, *rotary, turned)
            kernels.write_kv(keys, values, self._place, key, value, block.key_norm, block.eps, *rotary)
            attended = kernels.decode_attention(turned, keys, values, self._place, block.head_dim**-0.5)
            attended = kernels.matvec(attended, *block.output)
            residual, x = kernels.add_norm(residual, attended, block.middle_norm, block.eps)
            delta = kernels.matvec(kernels.gate_up_proj(x, block.gate, block.up), *block.down)
        self.logits.copy_(layers.head(residual, present(delta))[:, 0])
        self._position += 1
        self._place += 1

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The graph of one step; the step that warms it up is taken back."""
        stream: Any = torch.cuda.Stream(self._layers.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._layers.device))
        graph = torch.cuda.CUDAGraph()
        with _CAPTURE, torch.cuda.stream(stream):
            self.step()
            self._position -= 1
            self._place -= 1
            stream.synchronize()
            graph.capture_begin(capture_error_mode="thread_local")
            self.step()
            graph.capture_end()
        torch.cuda.current_stream(self._layers.device).wait_stream(stream)
        return graph


def _places(entries: Tensor, capacity: int) -> Tensor:
    """(1, heads, kept, dim) entries in a tensor of (1, capacity, heads, dim)."""
    _, heads, kept, dim = entries.shape
    grown = entries.new_zeros(1, capacity, heads, dim)
    grown[:, :kept] = entries.transpose(1, 2)
    return grown
