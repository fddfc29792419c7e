"""A tiny random model of every architecture that is said to work, and of some that cannot."""

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

COMMON: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
MLA = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
GEMMA3_LAYERS = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]

SUPPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-2": ("LlamaConfig", {"num_key_value_heads": 4}),
    "llama-3.1": ("LlamaConfig", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "qwen3-moe": ("Qwen3MoeConfig", {"num_experts": 4, "head_dim": 8, **EXPERTS}),
    "qwen2-moe": ("Qwen2MoeConfig", {"num_experts": 4, "shared_expert_intermediate_size": 32, **EXPERTS}),
    "phi3": ("Phi3Config", {}),
    "gemma": ("GemmaConfig", {"head_dim": 8}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 128, "query_pre_attn_scalar": 8}),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 8, "sliding_window": 128, "query_pre_attn_scalar": 8, "layer_types": GEMMA3_LAYERS},
    ),
    "olmo2": ("Olmo2Config", {}),
    "glm4": ("Glm4Config", {"head_dim": 8}),
    "smollm3": ("SmolLM3Config", {}),
    "starcoder2": ("Starcoder2Config", {}),
    "granite": (
        "GraniteConfig",
        {"embedding_multiplier": 12.0, "logits_scaling": 4.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3},
    ),
    "cohere": ("CohereConfig", {"logit_scale": 0.25}),
    "cohere2": ("Cohere2Config", {"sliding_window": 128, "head_dim": 8}),
    "deepseek-v3": ("DeepseekV3Config", {**MLA, **EXPERTS}),
    "phi": ("PhiConfig", {"num_key_value_heads": 4}),
    "gpt-neox": ("GPTNeoXConfig", {}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 4, "n_head": 4}, "layers"),
    "opt": ("OPTConfig", {"ffn_dim": 64, "word_embed_proj_dim": 32}, "rotary"),
    "bloom": ("BloomConfig", {"n_layer": 4, "n_head": 4}, "layers"),
    "stablelm": ("StableLmConfig", {}, "attention interface"),
    "mamba": ("MambaConfig", {"state_size": 4}, "norm|rotary"),
    "falcon": ("FalconConfig", {"num_kv_heads": 2}, "layers"),
    "gptj": ("GPTJConfig", {"n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4}, "layers"),
    "qwen3-next": (
        "Qwen3NextConfig",
        {"num_experts": 4, "shared_expert_intermediate_size": 32, "head_dim": 8, "linear_num_key_heads": 2,
         "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, **EXPERTS},
        "linear_attention",
    ),
}  # fmt: skip


def build(config_class: str, options: dict[str, Any], attention: str | None = None) -> PreTrainedModel:
    """A random model of an architecture; the same every time."""
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**(COMMON | options))
    chosen = {} if attention is None else {"attn_implementation": attention}
    return AutoModelForCausalLM.from_config(config, **chosen).eval()
