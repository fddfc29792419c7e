"""Decoding as one CUDA graph: a token a replay, with no Python between the layers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from homer.fast import FastDecoder

_CAPTURE = threading.Lock()
_ROUND = 64


class GraphSteps:
    """One more token at a time on top of given keys and values, which are copied and left as they are.

    Calling it with a token (any shape of one element, on any device) gives the logits (1, vocabulary) of the
    next in float32; they are overwritten by the next call.

    Args:
        keys, values: one (1, key heads, kept, head dim) tensor a layer.
        position: position id of the first token.
        room: how many tokens may come.
    """

    def __init__(
        self, decoder: FastDecoder, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], position: int, room: int
    ) -> None:
        self._decoder = decoder
        kept, device = keys[0].shape[2], decoder.device
        capacity = -(-(kept + room) // _ROUND) * _ROUND
        self._keys, self._values = ([_places(t.to(device), capacity) for t in side] for side in (keys, values))
        self._token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self._position = torch.full((1, 1), position, device=device)
        self._place = torch.full((1,), kept, device=device)
        self._logits = torch.zeros(1, decoder.vocabulary, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, token: Tensor) -> Tensor:
        self._token.copy_(token.view(1, 1), non_blocking=True)
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()
        return self._logits

    @torch.no_grad()
    def step(self) -> None:
        """Run the token that waits, and move on by one place."""
        decoder, kernels = self._decoder, self._decoder.kernels
        residual, delta = decoder.embed(self._token), None
        rotary = decoder.rotary(residual, self._position)
        for block, keys, values in zip(decoder.blocks, self._keys, self._values, strict=True):
            residual, x = decoder.norm(residual, delta, block.input_norm, block.eps)
            query, key, value = decoder.project(block, x, rotary)
            keys.index_copy_(1, self._place, key)
            values.index_copy_(1, self._place, value)
            queries = query[:, 0].unflatten(1, (keys.shape[2], -1))
            logits = kernels.look(queries, keys, block.head_dim**-0.5)
            attended = kernels.weigh(logits, values, self._place).flatten(1)[:, None]
            residual, delta = decoder.finish(block, residual, attended)
        assert delta is not None
        self._logits.copy_(decoder.head(residual, delta)[:, 0])
        self._position += 1
        self._place += 1

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The graph of one step; the step that warms it up is taken back."""
        stream = torch.cuda.Stream(self._decoder.device)
        stream.wait_stream(torch.cuda.current_stream(self._decoder.device))
        graph = torch.cuda.CUDAGraph()
        with _CAPTURE, torch.cuda.stream(stream):
            self.step()
            self._position -= 1
            self._place -= 1
            stream.synchronize()
            graph.capture_begin(capture_error_mode="thread_local")
            self.step()
            graph.capture_end()
        torch.cuda.current_stream(self._decoder.device).wait_stream(stream)
        return graph


def _places(entries: Tensor, capacity: int) -> Tensor:
    """(1, heads, kept, dim) entries in a tensor of (1, capacity, heads, dim)."""
    _, heads, kept, dim = entries.shape
    grown = entries.new_zeros(1, capacity, heads, dim)
    grown[:, :kept] = entries.transpose(1, 2)
    return grown
