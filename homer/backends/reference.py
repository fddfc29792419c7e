"""The seam to transformers: run some of a model's layers, by the model's own code.

It knows how models are built. A decoder holds a second tree of modules that shares every weight with the user's model
but has a configuration of its own, in which the attention can be watched. Views of it hold a slice of the layers. The
user's model is never changed, and nothing changes during a call, so any number of threads may run at once.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from homer.backends.architecture import check_architecture, final_norm, unwrapped
from homer.backends.attention import OBSERVER
from homer.backends.base import PROBE_LEN, Decoder, Keep, LayerOutput, Steps, gap_between, not_none, take_rows
from homer.backends.entries import Entries
from homer.backends.padded import OneByOne, PaddedSlots
from homer.backends.pausing import pause, pausing, stretches
from homer.backends.slots import Entry, Slots
from homer.backends.views import copy_module, replace_module, share_weights
from homer.errors import UnsupportedModelError
from homer.significance.evidence import QuestionLook
from homer.significance.scores import last_query_logits

logger = logging.getLogger(__name__)


class ReferenceDecoder(Decoder):
    """A decoder that runs layers by the model's own code.

    Raises:
        UnsupportedModelError: the model cannot be run piecewise; says why.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        model = unwrapped(model)
        check_architecture(model)
        super().__init__(share_weights(model))
        self._probe()

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
        """As `Decoder.run`."""
        observer = _Observer(observe, question, ends)
        hidden: Tensor | None = inputs
        logits: Tensor | None = None
        made = Entries()
        for start, stop in stretches(first, end, position_ids.numel()):
            cache = DynamicCache()  # of its own, for the mask goes by what the first layer holds
            arguments = self._arguments(start, not_none(hidden), position_ids, cache, observer)
            hidden, logits = self._forward(start, stop, arguments, ends)
            made = Entries.of_cache(cache).layers(start, stop).above(made)
            pause()
        kept = None if keep is None else keep(observer.logits, observer.attention)
        return LayerOutput(take_rows(hidden, kept), logits, made, observer.logits, observer.attention, kept)

    def extend(
        self, ids: Tensor, position_ids: Tensor, cache: DynamicCache, keep: int = 0, mask: Tensor | None = None
    ) -> Tensor:
        """As `Decoder.extend`."""
        arguments = self._arguments(0, ids, position_ids, cache, _Observer()) | {"attention_mask": mask}
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
        """As `Decoder.run_after`."""
        observer = _Observer(observe, question)
        arguments = self._arguments(0, ids, position_ids, cache, observer) | {"attention_mask": mask}
        hidden, logits = self._forward(0, end, arguments)
        return LayerOutput(hidden, logits, Entries.of_cache(cache), observer.logits, observer.attention)

    def replace_last(
        self,
        entries: Entries,
        ids: Tensor,
        position_ids: Tensor,
        observe: Iterable[int] = (),
        question: QuestionLook | None = None,
    ) -> LayerOutput:
        """As `Decoder.replace_last`."""
        cache = entries.part(0, entries.length - ids.shape[1]).to_cache()
        ids, position_ids = ids.to(self.device), position_ids.to(self.device)
        return self.run_after(len(entries), ids, position_ids, cache, observe, question=question)

    def steps(self, entries: Entries, position: int, room: int) -> Steps:
        """As `Decoder.steps`."""
        cache, positions = entries.to_cache(), itertools.count(position)

        def step(token: Tensor) -> Tensor:
            position = torch.tensor([[next(positions)]], device=self.device)
            return self.extend(token.view(1, 1).to(self.device), position, cache, keep=1)[:, -1].float()

        return step

    def slots(self) -> Slots:
        """As `Decoder.slots`."""
        return (PaddedSlots if self._goes_together else OneByOne)(self.extend, self.device)

    @functools.cached_property
    def reads_together(self) -> bool:
        """As `Decoder.reads_together`; tried once, when first needed."""
        ids, positions = (t.expand(2, -1) for t in self.probe())
        lengths = PROBE_LEN // 2, PROBE_LEN
        ends = torch.tensor(lengths, device=self.device)[:, None] - 1
        with pausing(lambda: None):  # what the caller's tick raises would be taken for the model's failure
            alone = [not_none(self.run(0, self.layers, ids[:1, :n], positions[:1, :n]).logits) for n in lengths]
            try:
                together = self.run(0, self.layers, ids, positions, ends=ends).logits
            except Exception:  # a model's own code that gives logits of the last token alone
                return False
            return self._goes_together and gap_between(together, torch.cat(alone)) is None

    @functools.cached_property
    def _goes_together(self) -> bool:
        """Whether rows of unlike length give together what each gives alone; tried once, when first needed."""
        ids, positions = self.probe()
        whole = self.run(0, self.layers, ids, positions)
        rows = [_first_part(whole, end) for end in (PROBE_LEN // 2, PROBE_LEN)]
        alone, together = OneByOne(self.extend, self.device), PaddedSlots(self.extend, self.device)
        try:
            for slots in (alone, together):
                slots.join(rows)
                slots.step(ids[0, :2])
            gap = gap_between(together.logits, alone.logits)
            reason = "" if gap is None else f"its logits differ by {gap:.3g}"
        except Exception as error:  # whatever a model's own code makes of padding
            reason = str(error)
        if reason:
            logger.info("%s decodes one stream at a time: %s", type(self.causal_lm).__name__, reason)
        return not reason

    def _forward(
        self, first: int, end: int, arguments: dict[str, Any], ends: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Hidden states after layers first..end-1; or, of the last layer, the next token's logits in float32."""
        with torch.no_grad(), self.exclusive():
            if end == self.layers:
                # models take columns for all rows: of a few short rows, every row's last one of each is little work
                columns: Any = 1 if ends is None else ends[:, 0].cpu()
                logits = self._causal_view(first)(**arguments, logits_to_keep=columns).logits
                return None, (logits[:, -1] if ends is None else logits.diagonal().t()).float()
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
        if getattr(root.config, "layer_types", None):  # some models look them up by their number in the loop
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
        ids, positions = self.probe()
        half = self.layers // 2
        name = type(self.causal_lm).__name__
        try:
            whole = self.run(0, self.layers, ids, positions, range(self.layers))
            lower = self.run(0, half, ids, positions)
            upper = self.run(half, self.layers, not_none(lower.hidden_states), positions)
        except Exception as error:
            raise UnsupportedModelError(f"{name} cannot be run in parts: {error}") from error
        if len(whole.observed) < self.layers:
            raise UnsupportedModelError(
                f"{name}: the attention of {self.layers - len(whole.observed)} of {self.layers} layers cannot be "
                f"watched, since it does not run through transformers' attention interface"
            )
        gap = gap_between(upper.logits, whole.logits)
        if gap is not None:
            raise UnsupportedModelError(f"{name}: run in two parts, its logits differ by {gap:.3g} from the whole's")


def _first_part(whole: LayerOutput, end: int) -> Entry:
    """A request whose keys are the first ones of a run; its logits are none of its own."""
    return Entry(whole.entries.part(0, end), not_none(whole.logits), end, 1)


class _Observer:
    """Notes the last query's logits at the layers asked for, and the question's attention."""

    def __init__(
        self, layers: Iterable[int] = (), question: QuestionLook | None = None, ends: Tensor | None = None
    ) -> None:
        self._last, self._question, self._ends = frozenset(layers), question, ends
        self._asked = frozenset() if question is None else frozenset(question.heads)
        self.logits: dict[int, Tensor] = {}
        self.attention: dict[int, Tensor] = {}

    @property
    def wanted(self) -> bool:
        """Whether there is anything to note."""
        return bool(self._last or self._asked)

    def __call__(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        if layer in self._last:
            ends = None if self._ends is None else self._ends.to(query.device)
            queries = take_rows(query.transpose(1, 2), ends).transpose(1, 2)
            self.logits[layer] = last_query_logits(queries, key, scaling)
        if layer in self._asked:
            self.attention[layer] = not_none(self._question).attention(layer, query, key, scaling)
