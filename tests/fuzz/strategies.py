"""What users and clients might give: mostly right, and wrong in the ways that were seen."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

BITS = [
    "The door code for the north gate is 48213. ", "\r\n\r\n", "\n", "\r", "\u2028", "\x85", "\t", "\0", "\ufeff",
    "\ud800",
    "<|end|>", "<|user|>", "<|pad|>" * 40, "é", "日本語", "🙂", "e\u0301", "a" * 200, " " * 50, "{{ x }}",
    "| a | b |\n",    "    return x\n", "# Title\n", "- item\n",
]  # fmt: skip
TEXT = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(BITS), max_size=12).map("".join))
JUNK: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.just(2**70), st.floats(), TEXT, st.binary(max_size=8),
    st.lists(st.integers(0, 3), max_size=3), st.just({}), st.just(object()), st.just(Path("a/b.txt")),
)  # fmt: skip
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)


def mostly(right: st.SearchStrategy[Any], wrong: st.SearchStrategy[Any] = JUNK) -> st.SearchStrategy[Any]:
    """What is asked for, nine times of ten."""
    return st.integers(0, 9).flatmap(lambda n: wrong if n == 0 else right)


DOCUMENT = mostly(
    st.one_of(TEXT, st.fixed_dictionaries({"text": mostly(TEXT)}, optional={"title": JUNK, "other": JUNK}))
)
DOCUMENTS = mostly(st.lists(DOCUMENT, max_size=4))
GENERATION = st.fixed_dictionaries(
    {"max_new_tokens": mostly(st.integers(1, 3))},
    optional={
        "temperature": mostly(st.floats(0, 2)), "top_p": mostly(st.floats(0, 1)), "top_k": mostly(st.integers(1, 50)),
        "min_p": mostly(st.floats(0, 1)), "seed": mostly(st.integers(0, 9)), "stop": mostly(st.lists(TEXT, max_size=2)),
        "repetition_penalty": mostly(st.floats(0.5, 2)), "system": mostly(TEXT), "do_sample": JUNK, "unheard": JUNK,
    },
)  # fmt: skip
CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "max_chunk_len": mostly(st.integers(30, 256)), "target_len": mostly(st.integers(20, 256)),
        "layers_warmup": mostly(st.integers(0, 3)), "max_initial_chunk_len": mostly(st.integers(20, 100)),
        "refresh_suffix": mostly(st.booleans()), "chunk_batch_size": mostly(st.integers(1, 3)),
        "suffix_budget": mostly(st.integers(0, 60)),
        "significance": mostly(st.sampled_from(["auto", "paper", "question", "standardized"])),
    },
)  # fmt: skip
IDS = mostly(st.lists(mostly(st.integers(0, 4095)), max_size=30))
LONG_IDS = mostly(st.lists(mostly(st.integers(0, 4095), st.integers(-1, 5000)), max_size=120))
MESSAGE = mostly(
    st.fixed_dictionaries(
        {"role": mostly(st.sampled_from(["system", "user", "assistant"])), "content": mostly(TEXT)},
        optional={"name": JUNK},
    )
)
MESSAGES = mostly(st.lists(MESSAGE, min_size=1, max_size=4))
PART = st.fixed_dictionaries(
    {"type": mostly(st.sampled_from(["text", "file", "image_url"]), JSON)},
    optional={"text": mostly(TEXT, JSON), "file": st.dictionaries(st.sampled_from(["filename", "file_data"]), TEXT)},
)
BODY = st.fixed_dictionaries(
    {
        "model": st.just("small"),
        "messages": mostly(
            st.lists(
                st.fixed_dictionaries(
                    {"role": mostly(st.sampled_from(["user", "system", "assistant", "developer"]), JSON)},
                    optional={"content": mostly(st.one_of(TEXT, st.lists(PART, max_size=2)), JSON), "name": JSON},
                ),
                min_size=1, max_size=3,
            ),
            JSON,
        ),
        "max_tokens": mostly(st.integers(1, 3), JSON),
    },
    optional={
        "documents": mostly(st.lists(st.one_of(TEXT, st.fixed_dictionaries({"text": TEXT})), max_size=3), JSON),
        "temperature": mostly(st.floats(0, 2), JSON), "stop": JSON, "metadata": JSON, "seed": JSON, "n": JSON,
        "stream": mostly(st.booleans(), JSON), "tools": JSON, "unheard": JSON, "logprobs": JSON,
    },
)  # fmt: skip
