"""A folder with a small random Llama and the shipped tokenizer: for tests in which answers need not be right."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from homer.loading import MINI


def save_small(folder: Path, layers: int = 6, window: int = 256, hidden: int = 32) -> Path:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=window,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
