"""The two ways in of the method's first implementation: HomerForCausalLM and patch, for those who come from it."""

from __future__ import annotations

import functools
import os
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from homer.backends.loading import load_model
from homer.config import HomerConfig
from homer.errors import GenerationError
from homer.generation.loop import generate_with_transformers
from homer.merging.cache import CompactCache
from homer.model import HomerModel
from homer.text.ids import TokenIds

Model = TypeVar("Model", bound=PreTrainedModel)


class HomerMixin:
    """What `patch` adds to a model; without `homer_prefix` every call is the model's own."""

    homer: HomerModel

    def create_homer_prefix(self, prefix_ids: TokenIds, context_ids: TokenIds, suffix_ids: TokenIds) -> CompactCache:
        """Compress a context between a prefix and a suffix: see HomerModel.compress."""
        return self.homer.compress(prefix_ids, context_ids, suffix_ids)

    def __call__(self, *args: Any, homer_prefix: CompactCache | None = None, **kwargs: Any) -> Any:
        """The model's own call; with `homer_prefix`, (1, n) input ids go on from it."""
        if homer_prefix is None:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        return self._forward_on(homer_prefix, *args, **kwargs)

    def generate(self, *args: Any, homer_prefix: CompactCache | None = None, **kwargs: Any) -> Any:
        """The model's own generate; with `homer_prefix`, the new tokens (1, n) that go on from it."""
        if homer_prefix is None:
            return super().generate(*args, **kwargs)  # type: ignore[misc]
        if args:
            raise GenerationError("generate takes homer_prefix or input ids, not both: leave the input ids out")
        homer_prefix.check_made_by(self.homer.decoder.fingerprint, self.homer.name)
        return generate_with_transformers(self.homer.decoder, homer_prefix, **kwargs)

    def _forward_on(self, cache: CompactCache, input_ids: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
        unknown = sorted(set(kwargs) - {"return_dict", "use_cache", "attention_mask"})
        if unknown:
            raise GenerationError(f"{unknown[0]} cannot be combined with homer_prefix: leave it out")
        logits = self.homer.forward(input_ids, cache)
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), labels.view(-1)[1:].to(logits.device))
        return CausalLMOutputWithPast(loss=loss, logits=logits)


class HomerForCausalLM:
    """Loads any supported model with `homer_args`, as the method's first implementation does."""

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, homer_args: dict[str, Any], **kwargs: Any
    ) -> PreTrainedModel:
        """A model of any kind that HomerModel.from_pretrained loads, then `patch` with `homer_args`."""
        return patch(load_model(name_or_path, kwargs.pop("dtype", None), None, kwargs).model, **homer_args)


def patch(
    model: Model, *, bias_path: str | os.PathLike[str] | None = None, refresh_suffix: bool = False, **settings: Any
) -> Model:
    """Give a loaded model `create_homer_prefix`, and `homer_prefix=` in its call and its `generate`.

    Only this one object changes; without `homer_prefix` it works as before.

    Args:
        bias_path: a calibration file, an official `.pt` or safetensors.
        refresh_suffix: False is the paper's own way.
        settings: max_chunk_len, target_len, layers_warmup and the other fields of HomerConfig.

    Returns:
        The same model.

    Raises:
        UnsupportedModelError, ConfigError, CalibrationError: saying what does not fit.
    """
    config = HomerConfig.from_dict({"significance": "paper"} | settings | {"refresh_suffix": refresh_suffix})
    homer = HomerModel(model, config=config, calibration=bias_path)
    if not isinstance(model, HomerMixin):
        model.__class__ = _patched(type(model))  # type: ignore[assignment, arg-type]
    model.homer = homer  # type: ignore[assignment]
    return model


@functools.cache
def _patched(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A subclass with HomerMixin in front; it keeps the name, which transformers looks at."""
    return type(kind.__name__, (HomerMixin, kind), {"__module__": kind.__module__})
