"""The seam to transformers: run some of a model's layers, by the model's own code.

The one file that knows how models are built. A `Decoder` holds a second tree of modules that shares
every weight with the user's model but has a configuration of its own, in which the attention can be
watched. Views of it hold a slice of the layers. The user's model is never changed, and nothing changes
during a call, so any number of threads may run at once.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from homer.backends.architecture import check_architecture, final_norm, shortest_sliding_window, unwrapped
from homer.backends.attention import OBSERVER
from homer.backends.fingerprint import fingerprint
from homer.backends.views import copy_module, replace_module, share_weights
from homer.base.locks import Lock
from homer.errors import UnsupportedModelError
from homer.significance.evidence import QuestionLook
from homer.significance.scores import last_query_logits

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
        keys, values: one (batch, key heads, length, head dim) tensor for each layer run.
        observed: layer -> (batch, heads, length), the last query's logits where they were asked for.
        attention: layer -> (batch, heads, stretches, length), the question's attention where it was asked for.
        kept: (batch, kept), which tokens hidden_states are of; None: all.
        stack: keys and values of the same layers in turn, side by side in one tensor
            (2 x layers, batch, length, key heads x head dim), where the fast path ran.
    """

    hidden_states: Tensor | None
    logits: Tensor | None
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    observed: dict[int, Tensor]
    attention: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    kept: Tensor | None = None
    stack: Tensor | None = None


class Decoder:
    """A causal language model whose layers can be run piecewise.

    Raises:
        UnsupportedModelError: the model cannot be run piecewise; says why.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        model = unwrapped(model)
        check_architecture(model)
        self.causal_lm = share_weights(model)
        text_config = model.config.get_text_config()
        self.layers: int = len(_layers(self._root))
        self.window: int = text_config.max_position_embeddings
        self.sliding_window = shortest_sliding_window(text_config)
        self.heads: int = text_config.num_attention_heads
        self.vocabulary = int(self.causal_lm.get_input_embeddings().num_embeddings)
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = _input_device(model)
        self._offload_lock = Lock() if _is_offloaded(model) else None
        self._probe()

    @property
    def rope(self) -> dict[str, Any]:
        """The model's RoPE settings, as transformers writes them."""
        return dict(getattr(self.causal_lm.config.get_text_config(), "rope_parameters", None) or {})

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of what keys and values depend on: shapes, RoPE, dtype, and sums over all rows of every weight."""
        return fingerprint(self.causal_lm, self.dtype)

    @property
    def _root(self) -> Any:
        return self.causal_lm.get_decoder()

    def run(
        self,
        first: int,
        end: int,
        inputs: Tensor,
        position_ids: Tensor,
        observe: Iterable[int] = (),
        keep: Keep | None = None,
        question: QuestionLook | None = None,
    ) -> LayerOutput:
        """Run layers first..end-1, causally, over one batch of chunks of equal length.

        Args:
            inputs: token ids (batch, length) where first is 0, else hidden states (batch, length, hidden size).
            position_ids: (batch, length); they may repeat.
            observe: layers whose last-query logits are wanted.
            keep: says by what was seen which tokens (batch, kept) go on, in order; None: all do.
            question: the heads whose attention from the question's tokens is wanted.
        """
        cache = DynamicCache()
        observer = _Observer(observe, question)
        arguments = self._arguments(first, inputs, position_ids, cache, observer)
        hidden, logits = self._forward(first, end, arguments)
        kept = None if keep is None else keep(observer.logits, observer.attention)
        keys, values = entries(cache)
        hidden = take_rows(hidden, kept)
        seen = observer.logits, observer.attention
        return LayerOutput(hidden, logits, keys[first:end], values[first:end], *seen, kept)

    def extend(self, ids: Tensor, position_ids: Tensor, cache: DynamicCache, keep: int = 0) -> Tensor:
        """Run all layers over new tokens on top of a cache, which grows.

        Args:
            ids, position_ids: (batch, n).
            keep: how many last rows of logits are wanted; 0 means all.

        Returns:
            Logits (batch, n or keep, vocabulary) in the model's dtype.
        """
        arguments = self._arguments(0, ids, position_ids, cache, _Observer())
        with torch.no_grad(), self.exclusive():
            logits: Tensor = self.causal_lm(**arguments, logits_to_keep=keep).logits
        return logits

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
            cache: grows as its layers please; the output's keys and values are what it holds afterwards.
            mask: (batch, cached + n), 0 where a cached place is padding; None where none is.
            question: as in `run`.
        """
        observer = _Observer(observe, question)
        arguments = self._arguments(0, ids, position_ids, cache, observer) | {"attention_mask": mask}
        return LayerOutput(*self._forward(0, end, arguments), *entries(cache), observer.logits, observer.attention)

    def replace_last(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        ids: Tensor,
        position_ids: Tensor,
        observe: Iterable[int] = (),
        stack: Tensor | None = None,
        question: QuestionLook | None = None,
    ) -> LayerOutput:
        """Run layers over tokens that stand in for the last ones of a cache.

        Args:
            keys, values: one (1, key heads, length, head dim) tensor for each layer to run, from the first on.
            ids, position_ids: (1, n).
            stack: the same keys and values as in LayerOutput; the fast path writes the new ones into it.
            question: as in `run`.
        """
        body = keys[0].shape[2] - ids.shape[1]
        cache = cache_of(*([entry[:, :, :body] for entry in side] for side in (keys, values)))
        ids, position_ids = ids.to(self.device), position_ids.to(self.device)
        return self.run_after(len(keys), ids, position_ids, cache, observe, question=question)

    def steps(self, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], position: int, room: int) -> Steps:
        """A function from one token to the logits (1, vocabulary), float32, of the next, on top of keys and values.

        Args:
            keys, values: one (1, key heads, length, head dim) tensor a layer; they are left as they are.
            position: position id of the first token; each call moves on by one.
            room: how many tokens may come at most.
        """
        cache, places = cache_of(keys, values), itertools.count(position)

        def step(token: Tensor) -> Tensor:
            place = torch.tensor([[next(places)]], device=self.device)
            return self.extend(token.view(1, 1).to(self.device), place, cache, keep=1)[:, -1].float()

        return step

    def exclusive(self) -> contextlib.AbstractContextManager[Any]:
        """A lock where weights are offloaded, since loading them in and out is not for two threads at once."""
        return self._offload_lock or contextlib.nullcontext()

    def _forward(self, first: int, end: int, arguments: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        """Hidden states after layers first..end-1; or, of the last layer, the next token's logits in float32."""
        with torch.no_grad(), self.exclusive():
            if end == self.layers:
                return None, self._causal_view(first)(**arguments, logits_to_keep=1).logits[:, -1].float()
            hidden: Tensor = self._view(first, end)(**arguments).last_hidden_state
            return hidden, None

    def _arguments(
        self, first: int, inputs: Tensor, position_ids: Tensor, cache: DynamicCache, observer: _Observer
    ) -> dict[str, Any]:
        name = "inputs_embeds" if first else "input_ids"
        arguments = {name: inputs, "position_ids": position_ids, "past_key_values": cache, "use_cache": True}
        return arguments | ({OBSERVER: observer} if observer.wanted else {})

    def _view(self, first: int, end: int) -> Any:
        """The decoder with a slice of its layers, and without its last norm below the top."""
        root = self._root
        view = copy_module(root)
        view._modules["layers"] = nn.ModuleList(list(root.layers)[first:end])
        view.config = copy.copy(root.config)
        if getattr(root.config, "layer_types", None):  # some models look them up by the place in the loop
            view.config.layer_types = root.config.layer_types[first:end]
        if end < self.layers:
            view._modules[final_norm(root)] = nn.Identity()
        if first and hasattr(view, "embedding_multiplier"):  # Granite would scale hidden states again
            view.embedding_multiplier = 1.0
        return view

    def _causal_view(self, first: int) -> Any:
        return (
            self.causal_lm if first == 0 else replace_module(self.causal_lm, self._root, self._view(first, self.layers))
        )

    def _probe(self) -> None:
        """Run a few tokens whole and in two parts: the results must agree and every layer must be observable."""
        ids = torch.arange(PROBE_LEN, device=self.device)[None] % self.vocabulary
        positions = torch.arange(PROBE_LEN, device=self.device)[None]
        half = self.layers // 2
        name = type(self.causal_lm).__name__
        try:
            whole = self.run(0, self.layers, ids, positions, range(self.layers))
            lower = self.run(0, half, ids, positions)
            upper = self.run(half, self.layers, present(lower.hidden_states), positions)
        except Exception as error:
            raise UnsupportedModelError(f"{name} cannot be run in parts: {error}") from error
        if len(whole.observed) < self.layers:
            raise UnsupportedModelError(
                f"{name}: the attention of {self.layers - len(whole.observed)} of {self.layers} layers cannot be "
                f"watched, since it does not run through transformers' attention interface"
            )
        gap = (present(whole.logits) - present(upper.logits)).abs().max().item()
        if not gap <= 0.02 * max(1.0, present(whole.logits).abs().max().item()):
            raise UnsupportedModelError(f"{name}: run in two parts, its logits differ by {gap:.3g} from the whole's")


class _Observer:
    """Notes the last query's logits at the layers asked for, and the question's attention."""

    def __init__(self, layers: Iterable[int] = (), question: QuestionLook | None = None) -> None:
        self._last, self._question = frozenset(layers), question
        self._asked = frozenset() if question is None else frozenset(question.heads)
        self.logits: dict[int, Tensor] = {}
        self.attention: dict[int, Tensor] = {}

    @property
    def wanted(self) -> bool:
        """Whether there is anything to note."""
        return bool(self._last or self._asked)

    def __call__(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        if layer in self._last:
            self.logits[layer] = last_query_logits(query, key, scaling)
        if layer in self._asked:
            self.attention[layer] = present(self._question).attention(layer, query, key, scaling)


def cache_of(keys: Iterable[Tensor], values: Iterable[Tensor]) -> DynamicCache:
    """A new transformers cache of these keys and values, one tensor a layer."""
    cache = DynamicCache()
    for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
        cache.update(key, value, layer)
    return cache


def entries(cache: DynamicCache) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Keys and values of every layer of a cache; layers that did not run have none."""
    layers: list[Any] = cache.layers
    return tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers)


def _layers(root: Any) -> nn.ModuleList:
    layers: nn.ModuleList = root.layers
    return layers


def take_rows(x: Any, kept: Tensor | None) -> Any:
    """Of x (batch, length, ...) the tokens at kept (batch, kept); all where either is None."""
    if x is None or kept is None:
        return x
    if len(kept) == 1:
        return x.index_select(1, kept[0])
    return x[torch.arange(len(kept), device=kept.device)[:, None], kept]


def present(value: T | None) -> T:
    """What is there."""
    assert value is not None
    return value


def _is_offloaded(model: nn.Module) -> bool:
    return any(parameter.device.type == "meta" for parameter in model.parameters())


def _input_device(model: PreTrainedModel) -> torch.device:
    devices = (p.device for p in model.parameters() if p.device.type != "meta")
    return next(devices, torch.device("cpu"))
