"""Decoder: what every backend can do, which is to run some of a model's layers on some of its tokens."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from homer.backends.architecture import shortest_sliding_window
from homer.backends.entries import Entries
from homer.backends.fingerprint import fingerprint
from homer.backends.slots import Slots
from homer.base.locks import Lock
from homer.significance.evidence import QuestionLook

PROBE_LEN = 8
T = TypeVar("T")
Steps = Callable[[Tensor], Tensor]
Keep = Callable[[dict[int, Tensor], dict[int, Tensor]], Tensor | None]


@dataclasses.dataclass(frozen=True)
class LayerOutput:
    """What a run of some layers gives.

    Attributes:
        hidden_states: (batch, length or kept, hidden size) after the last; None where it is the model's last.
        logits: (batch, vocabulary), float32, of the token after the last; None below the model's last layer.
        entries: keys and values of each layer run.
        observed: layer -> (batch, heads, length), the last query's logits where they were asked for.
        attention: layer -> (batch, heads, stretches, length), the question's attention where it was asked for.
        kept: (batch, kept), which tokens hidden_states are of; None: all.
    """

    hidden_states: Tensor | None
    logits: Tensor | None
    entries: Entries
    observed: dict[int, Tensor]
    attention: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    kept: Tensor | None = None


class Decoder(abc.ABC):
    """A causal language model whose layers can be run piecewise. Nothing changes during a call: threads may share it.

    Args:
        causal_lm: a tree of modules whose attention can be watched; see `views`.
    """

    def __init__(self, causal_lm: Any) -> None:
        self.causal_lm = causal_lm
        config = causal_lm.config.get_text_config()
        self.layers = len(self._root.layers)
        self.window: int = config.max_position_embeddings
        self.sliding_window = shortest_sliding_window(config)
        self.heads: int = config.num_attention_heads
        self.hidden_size: int = config.hidden_size
        self.vocabulary = int(causal_lm.get_input_embeddings().num_embeddings)
        self.dtype: torch.dtype = causal_lm.dtype
        self.device = _input_device(causal_lm)
        self.output_device = _output_device(causal_lm, self.device)
        self.products = ""  # how matrices are multiplied, where that is not the weights' own way
        self._offload_lock = Lock() if _is_offloaded(causal_lm) else None

    @property
    def rope(self) -> dict[str, Any]:
        """The model's RoPE settings, as transformers writes them."""
        return dict(getattr(self.causal_lm.config.get_text_config(), "rope_parameters", None) or {})

    @property
    def steady_len(self) -> int | None:
        """Tokens up to which RoPE turns alike however long a call is; None where it always does."""
        if self.rope.get("rope_type") not in ("dynamic", "longrope"):
            return None
        return int(self.rope.get("original_max_position_embeddings") or self.window)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of what keys and values depend on: shapes, RoPE, dtype, and sums over all rows of every weight."""
        return fingerprint(self.causal_lm, self.dtype, self.products)

    @property
    def _root(self) -> Any:
        return self.causal_lm.get_decoder()

    @abc.abstractmethod
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
        """Run layers first..end-1, causally, over one batch of chunks of equal length.

        Args:
            inputs: token ids (batch, length) where first is 0, else hidden states (batch, length, hidden size).
            position_ids: (batch, length); they may repeat.
            observe: layers whose last-query logits are wanted.
            keep: says by what was seen which tokens (batch, kept) go on, in order; None: all do.
            question: the heads whose attention from the question's tokens is wanted.
            ends: (batch, 1), where every row's last token stands, with padding behind it that no token sees; None: in
                the last column. For runs up to the model's last layer, where `reads_together`.
        """

    @property
    def reads_together(self) -> bool:
        """Whether rows of unlike length, padded behind, give together what each gives alone."""
        return True

    @abc.abstractmethod
    def extend(
        self, ids: Tensor, position_ids: Tensor, cache: DynamicCache, keep: int = 0, mask: Tensor | None = None
    ) -> Tensor:
        """Run all layers over new tokens on top of a cache, which grows.

        Args:
            ids, position_ids: (batch, n).
            keep: how many last rows of logits are wanted; 0 means all.
            mask: (batch, cached + n), 0 where a cached column is padding; None where none is.

        Returns:
            Logits (batch, n or keep, vocabulary) in the model's dtype.
        """

    @abc.abstractmethod
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
        """Run layers 0..end-1 over new tokens on top of a cache of those layers.

        Args:
            ids, position_ids: (batch, n).
            cache: grows as its layers please; the output's entries are what it holds afterwards.
            mask: (batch, cached + n), 0 where a cached column is padding; None where none is.
            question: as in `run`.
        """

    @abc.abstractmethod
    def replace_last(
        self,
        entries: Entries,
        ids: Tensor,
        position_ids: Tensor,
        observe: Iterable[int] = (),
        question: QuestionLook | None = None,
    ) -> LayerOutput:
        """Run layers over tokens that stand in for the last ones of a cache.

        Args:
            entries: of each layer to run, from the first on, in a batch of one; into a stack the new ones are written.
            ids, position_ids: (1, n).
            question: as in `run`.
        """

    @abc.abstractmethod
    def steps(self, entries: Entries, position: int, room: int) -> Steps:
        """A function from one token to the logits (1, vocabulary), float32, of the next, on top of keys and values.

        Args:
            entries: of all layers, in a batch of one; they are left as they are.
            position: position id of the first token; each call moves on by one.
            room: how many tokens may come at most.
        """

    @abc.abstractmethod
    def slots(self) -> Slots:
        """Room for requests that go on together, none of them there yet; see `Slots`."""

    def warm_up(self, longest: int) -> None:  # noqa: B027 - most have nothing to do
        """Plan now what the first chunks of up to so many tokens would wait for."""

    def probe(self) -> tuple[Tensor, Tensor]:
        """Ids and positions (1, 8) of a few tokens, by which two ways of running a model are compared."""
        positions = torch.arange(PROBE_LEN, device=self.device)[None]
        return positions % self.vocabulary, positions

    def exclusive(self) -> contextlib.AbstractContextManager[Any]:
        """A lock where weights are offloaded, since loading them in and out is not for two threads at once."""
        return self._offload_lock or contextlib.nullcontext()


def gap_between(ours: Tensor | None, theirs: Tensor | None) -> float | None:
    """How far logits lie apart, where that is more than rounding makes of it; None where they agree."""
    one, other = not_none(ours), not_none(theirs)
    gap, scale = (one - other).abs().max().item(), other.abs().max().item()
    return None if gap <= 0.02 * max(1.0, scale) else gap


def take_rows(x: Any, kept: Tensor | None) -> Any:
    """Of x (batch, length, ...) the tokens at kept (batch, kept); all where either is None."""
    if x is None or kept is None:
        return x
    if len(kept) == 1:
        return x.index_select(1, kept[0])
    return x[torch.arange(len(kept), device=kept.device)[:, None], kept]


def not_none(value: T | None) -> T:
    """The value, which the caller knows to be there."""
    assert value is not None
    return value


def _is_offloaded(model: nn.Module) -> bool:
    return any(parameter.device.type == "meta" for parameter in model.parameters())


def _input_device(model: nn.Module) -> torch.device:
    devices = (p.device for p in model.parameters() if p.device.type != "meta")
    return next(devices, torch.device("cpu"))


def _output_device(model: Any, otherwise: torch.device) -> torch.device:
    """Where logits come out."""
    weight = getattr(model.get_output_embeddings(), "weight", None)
    return otherwise if weight is None or weight.device.type == "meta" else weight.device
