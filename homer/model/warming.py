"""Warming up: what a GPU does only once is done before anybody waits for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch

from homer.backends.base import Decoder
from homer.model.tokens import TokenModel

_LONGEST = 8192  # tokens; planning for longer ones takes little beside running them
_CHUNK = 256  # short, but long enough for any kernel


def warm_up(model: TokenModel, decoders: Iterable[Decoder]) -> None:
    """Plan attention for all lengths of chunks; read and answer a little, so that kernels are compiled and captured.

    Args:
        decoders: of all devices that read a context.
    """
    for decoder in decoders:
        decoder.warm_up(min(model.window, _LONGEST))  # prompts that fit the window are left whole
    chunk = min(model.chunk_len, _CHUNK)
    config = dataclasses.replace(
        model.config, max_chunk_len=chunk, target_len=max(3, chunk // 2), max_initial_chunk_len=None, suffix_budget=0
    )
    ids = torch.arange(4 * chunk) % model.decoder.vocabulary
    cache = model.compress(ids[:1], ids[1:-1], ids[-1:], config=config)
    for _ in model.stream(cache, 2):
        pass
