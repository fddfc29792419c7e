"""A model that thinks: a tokenizer with a template of our own, and weights that say the same words after each other."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from homer import Calibration, HomerConfig, HomerModel

MESSAGES = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and m.reasoning_content and loop.index0 > last.user %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|end|>{% endfor %}"
)
LAST_USER = (
    "{% set last = namespace(user=-1) %}{% for m in messages %}{% if m.role == 'user' "
    "and not m.content.startswith('<tool_response>') %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
)
# the model opens its thought by itself, and a variable switches it off
SWITCHED = (
    LAST_USER + MESSAGES + "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
# the template opens the thought, and takes it out of earlier answers
OPENED = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
MARKS, CALL_MARKS = ["<think>", "</think>"], ["<tool_call>", "</tool_call>"]
THOUGHT, ANSWER = "The dewar holds 35 </th ink> litres.", "35 litres"
SAID = [
    "<|assistant|>",
    "<think>",
    "The dewar",
    " holds 35 </th",
    " ink> litres.",
    "</think>",
    "35",
    " litres",
    "<|end|>",
]
CALLING = ["<|assistant|>", "<think>", "The dewar", "</think>", "Well.", *CALL_MARKS, "<|end|>"]  # it thinks, and calls


def thinking_tokenizer(
    template: str = SWITCHED, marks: bool = True, special: bool = False, said: Sequence[str] = SAID
) -> PreTrainedTokenizerFast:
    """One token a byte, and some that no text becomes, which the model says; its marks may be plain text, or special.

    Families differ there: <think> of Qwen3 is an added token and not special, [THINK] of Mistral is.
    """
    names = [*MARKS, *(word for word in said if word in CALL_MARKS)]
    words = [word.replace(" ", "Ġ") for word in dict.fromkeys(said) if word not in (*SPECIAL, *names)]
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    tokenizer = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    if marks:
        added = [AddedToken(name, special=special, normalized=False) for name in names]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=template)


def thinking_model(
    template: str = SWITCHED, window: int = 1024, special: bool = False, said: Sequence[str] = SAID, **options: Any
) -> HomerModel:
    """After each token of what is `said` it says the next one, whatever came before."""
    torch.manual_seed(0)
    tokenizer = thinking_tokenizer(template, special=special, said=said)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=8, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=window, bos_token_id=None, pad_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = [tokenizer.convert_tokens_to_ids(word.replace(" ", "Ġ")) for word in said]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        torch.nn.init.normal_(model.model.embed_tokens.weight)
        model.lm_head.weight.zero_()
        for token, following in itertools.pairwise(ids):
            model.lm_head.weight[following] = model.model.embed_tokens.weight[token]
    heads = Calibration(torch.zeros(6, 0), {"team": [[3, 1], [1, 0]]}, question_heads=torch.eye(6, 2) + 0.1)
    return HomerModel(
        model, tokenizer, HomerConfig(max_chunk_len=window // 2, target_len=window // 4), heads, **options
    )
