"""Which models can be run piecewise: what can be read off a model before anything runs."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from homer.errors import UnsupportedModelError

_MEND = "use a decoder-only model with rotary positions, such as Llama, Mistral or Qwen"
_FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm")


def unwrapped(model: Any) -> Any:
    """The transformers model inside what torch.compile or PEFT made of it; an adapter's layers stay in it.

    Raises:
        UnsupportedModelError: an adapter that works by more than layers.
    """
    model = getattr(model, "_orig_mod", model)
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        return model
    if getattr(model.active_peft_config, "is_prompt_learning", False):
        raise UnsupportedModelError(
            f"the adapter puts {model.active_peft_config.num_virtual_tokens} virtual tokens before every prompt, which "
            f"cannot be compressed with it: train one of layers, such as LoRA"
        )
    return model.get_base_model()


def check_architecture(model: PreTrainedModel) -> None:
    """Refuse, by what can be read off it, a model whose layers cannot be run piecewise.

    Raises:
        UnsupportedModelError: says what is missing.
    """
    name = type(model).__name__
    config = model.config.get_text_config()
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None  # type: ignore[no-untyped-call]
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} has an encoder: {_MEND}")
    if decoder is None or decoder is model or not hasattr(decoder, "layers"):
        raise UnsupportedModelError(f"{name} has no list of decoder layers under the name `layers`: {_MEND}")
    if not any(hasattr(decoder, norm) for norm in _FINAL_NORMS):
        raise UnsupportedModelError(f"{name} has no last norm named {', '.join(_FINAL_NORMS)}: {_MEND}")
    if not hasattr(decoder, "rotary_emb") and not hasattr(decoder, "rotary_embs"):
        raise UnsupportedModelError(f"{name} has no rotary position embedding: {_MEND}")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        raise UnsupportedModelError(f"{name} has layers of kind {', '.join(sorted(kinds))}, not attention: {_MEND}")


def not_plain(model: nn.Module) -> str | None:
    """Why a model is more than weights on one device; None where it is not."""
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1 or "meta" in devices:
        return f"its weights lie on {len(devices)} devices ({', '.join(sorted(devices))})"
    return "its modules carry hooks" if any(hasattr(module, "_hf_hook") for module in model.modules()) else None


def final_norm(decoder: nn.Module) -> str:
    """The name of a decoder's last norm."""
    return next(name for name in _FINAL_NORMS if hasattr(decoder, name))


def shortest_sliding_window(config: Any) -> int | None:
    """The sliding attention window of a text configuration, in tokens; None where all attention is full."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    unused = not getattr(config, "use_sliding_window", True) or (kinds and "sliding_attention" not in kinds)
    return None if unused else window
