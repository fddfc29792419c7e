"""A tokenizer with a chat template that knows tools: calls are JSON between marks that are tokens of their own."""

from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.byte_tokenizers import byte_tokenizer

TOOL_TEMPLATE = r"""{%- set told = messages[0].content if messages[0].role == 'system' else '' -%}
{%- if told or tools -%}
<s>system: {{ told }}
{%- if tools %}

You have functions. Their signatures stand here, one a line:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
Use one by writing its name and its arguments:
<tool_call>
{"name": NAME, "arguments": ARGUMENTS}
</tool_call>
{%- endif %}</s>
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
<|user|>{{ message.content }}</s>
{%- elif message.role == 'tool' -%}
<|user|><tool_response>
{{ message.content }}
</tool_response></s>
{%- elif message.role == 'assistant' -%}
<|assistant|>{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
{%- if message.content or not loop.first -%}{{ '\n' }}{%- endif -%}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}</s>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""

# How transformers reads an answer of this model by itself, where its version can.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "content": {"close": "</s>"},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "content": "json",
            "repeats": True,
            "transform": {"type": "function", "function": "{content}"},
        },
    },
}


def tool_tokenizer(special: bool = False) -> PreTrainedTokenizerFast:
    """One token a byte, control tokens, and the two marks, which are tokens, as of Qwen, or special ones."""
    tokenizer: Any = byte_tokenizer(TOOL_TEMPLATE)
    marks = [AddedToken(mark, special=special, normalized=False) for mark in ("<tool_call>", "</tool_call>")]
    tokenizer.add_tokens(marks, special_tokens=special)
    tokenizer.response_template = RESPONSE_TEMPLATE
    return tokenizer
