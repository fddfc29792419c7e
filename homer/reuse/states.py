"""LeafStates: what the layers of the leaves make of tokens, kept so that other tokens can be run on top of them.

Under a causal mask these states do not depend on what comes behind, so they serve any question. They are laid out
token by token: then prefix, slice and suffix of many leaves of any length join in one copy, and survivors are rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from homer.backends.base import Decoder
from homer.errors import UnsupportedModelError


@dataclasses.dataclass(frozen=True)
class LeafStates:
    """States of n tokens in a row. Immutable.

    Attributes:
        hidden_states: (n, hidden size), after the leaves' last layer; (n, 0) where that is the model's last.
        keys, values: (leaf layers, n, key heads, head dim).
    """

    hidden_states: Tensor
    keys: Tensor
    values: Tensor

    def __len__(self) -> int:
        return int(self.keys.shape[1])

    @property
    def layers(self) -> int:
        """Layers that have run."""
        return int(self.keys.shape[0])

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.keys.device

    @property
    def nbytes(self) -> int:
        """Bytes of all three."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three, in the order of the attributes."""
        return self.hidden_states, self.keys, self.values

    def take(self, rows: Tensor) -> LeafStates:
        """Keys and values of some of the tokens; their hidden states are done with."""
        none = self.hidden_states[:0]
        return LeafStates(none, self.keys.index_select(1, rows), self.values.index_select(1, rows))

    def to(self, device: torch.device) -> LeafStates:
        """A copy on a device, or itself; from pinned memory the copy goes on beside other work."""
        return LeafStates(*(tensor.to(device, non_blocking=True) for tensor in self.tensors()))

    def pin(self) -> LeafStates:
        """A copy in the CPU's memory, pinned where there is a GPU."""
        pinned = torch.cuda.is_available()
        copies = (torch.empty(t.shape, dtype=t.dtype, pin_memory=pinned) for t in self.tensors())
        return LeafStates(*(copy.copy_(tensor) for copy, tensor in zip(copies, self.tensors(), strict=True)))


def bytes_per_token(decoder: Decoder, layers: int) -> int:
    """Bytes that `layers` layers' states of one token take."""
    states = run_prefix(decoder, torch.zeros(1, dtype=torch.long), layers)
    return states.nbytes


def run_prefix(decoder: Decoder, prefix_ids: Tensor, layers: int) -> LeafStates:
    """States of the prefix (n,), which are the same in every leaf; n may be 0."""
    one = prefix_ids if len(prefix_ids) else torch.zeros(1, dtype=torch.long)
    (states,) = run_leaves(decoder, one[:0], [one], layers)
    return states if len(prefix_ids) else LeafStates(*_slice(states, 0, 0))


def run_leaves(decoder: Decoder, prefix_ids: Tensor, slices: Sequence[Tensor], layers: int) -> Iterator[LeafStates]:
    """States of slices (n,) of a context behind a prefix (m,), after layers 0..layers-1, in one batch.

    Shorter slices are padded behind, which nothing before can see.

    Raises:
        UnsupportedModelError: a model whose layers' keys differ in shape.
    """
    ids = pad_sequence([torch.cat([prefix_ids, part]) for part in slices], batch_first=True).to(decoder.device)
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    output = decoder.run(0, layers, ids, positions)
    shapes = {(key.shape[1:], value.shape[1:]) for key, value in output.entries}
    if len(shapes) > 1:
        raise UnsupportedModelError(f"the keys of the first {layers} layers differ in shape: they cannot be kept")
    start = len(prefix_ids)
    for row, part in enumerate(slices):
        keys, values = (
            torch.stack([t[row, :, start : start + len(part)].transpose(0, 1).to(decoder.device) for t in side])
            for side in (output.entries.keys, output.entries.values)
        )
        hidden = keys.new_empty(len(part), 0)
        if output.hidden_states is not None:
            hidden = output.hidden_states[row, start : start + len(part)].to(decoder.device, copy=True)
        yield LeafStates(hidden, keys, values)


def kept_cache(prefix: LeafStates, leaves: Sequence[LeafStates]) -> tuple[DynamicCache, list[int]]:
    """A cache of leaves of any lengths, each behind the prefix, which stays as it is when more tokens run on top.

    Returns:
        The cache, and how many columns of padding stand before each leaf.
    """
    longest = max(map(len, leaves))
    pads = [longest - len(leaf) for leaf in leaves]
    cache = DynamicCache()
    sides = ([states.tensors()[side].unbind(0) for states in (prefix, *leaves)] for side in (1, 2))
    keys, values = (zip(*side, strict=True) for side in sides)
    cache.layers = [_KeptLayer(*layer, pads) for layer in zip(keys, values, strict=True)]
    return cache, pads


class _KeptLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer of a transformers cache that joins kept keys with new ones and holds on to the new ones only."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], pads: Sequence[int]) -> None:
        """Keys and values (n, key heads, head dim) of the prefix and of every leaf."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._keys, self._values, self._pads = keys, values, pads
        self.is_initialized = True
        self.dtype, self.device = keys[0].dtype, keys[0].device

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values (batch, key heads, all tokens, head dim) with the new ones at their end."""
        self.keys, self.values = key_states, value_states
        return self._join(self._keys, key_states), self._join(self._values, value_states)

    def get_seq_length(self) -> int:
        """Kept tokens, padding included."""
        return len(self._keys[0]) + len(self._keys[1]) + self._pads[0]

    def _join(self, kept: Sequence[Tensor], new: Tensor) -> Tensor:
        """Kept (n, key heads, head dim) and new (batch, key heads, m, head dim) states as one batch."""
        prefix, *leaves = kept
        padding = prefix.new_zeros(max(self._pads), *prefix.shape[1:])
        rows: list[Tensor] = []
        for leaf, pad, last in zip(leaves, self._pads, new.transpose(1, 2).to(prefix.device).unbind(0), strict=True):
            rows += [padding[:pad], prefix, leaf, last] if pad else [prefix, leaf, last]
        joined = torch.cat(rows).to(new.device).view(len(leaves), -1, *prefix.shape[1:])
        return joined.transpose(1, 2)


def _slice(states: LeafStates, start: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
    hidden, keys, values = states.tensors()
    return hidden[start:end], keys[:, start:end], values[:, start:end]
