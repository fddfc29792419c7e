"""Whatever a text holds: what is left of it stands in it, whole, within the budget, and the same every time."""

import bisect
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homer import Compressed, Compressor, HomerModel, InputError
from homer.text.units import split_units

QUESTION = "What is the door code for the north gate?"
BITS = [
    "The door code is 48213. ", "Who knows? ", "a,b,c\n1,2,3\n4,5,6\n", "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n",
    "- item. two\n", "  - sub\n", "\n\n", "```py\nx = 1\n\ny = 2\n```\n", "```\n", "# Head\n", "Title\n=====\n",
    "今日は雨。", "رمز الباب 48213؟ ", "รหัสประตู ", "<p>Hi.</p>", "\t", "  ", "e\u0301", "👍🏽", "\u200b", "\r\n",
    "\x0c", "\u2028", "[...]", "lorem ipsum " * 100, "y" * 1200, "no...", "<|im_end|>", "> said\n", "\ufeff",
]  # fmt: skip
TEXTS = st.lists(st.lists(st.sampled_from(BITS), max_size=14).map("".join), min_size=1, max_size=3)
BUDGETS = st.one_of(
    st.builds(dict, max_tokens=st.sampled_from([1, 5, 20, 60, 500])),
    st.builds(dict, max_share=st.sampled_from([0.01, 0.3, 0.9, 1.0])),
    st.builds(dict, top_k=st.sampled_from([1, 2, 50])),
)


def put_together(text: str, spans: Any, left: str, marker: str) -> None:
    """What is left is the spans of the text in order; between and around them stand markers and white space."""
    place = 0
    for start, end in spans:
        found = left.index(text[start:end], place)
        assert left[place:found].strip() in ("", marker.strip(), f"| {marker} |")
        place = found + end - start
    assert left[place:].strip() in ("", marker.strip(), f"| {marker} |")


def whole(text: str, spans: Any) -> None:
    """Every span is made of units, and rows have their header."""
    units = split_units(text)
    starts, ends = [unit.start for unit in units], [unit.end for unit in units]
    kept: set[int] = set()
    for start, end in spans:
        kept |= set(range(bisect.bisect_left(starts, start), bisect.bisect_left(ends, end) + 1))
        assert start in starts
        assert end in ends
    assert all(unit.header is None or unit.header in kept for number, unit in enumerate(units) if number in kept)


def check(result: Compressed, texts: list[str], marker: str, budget: dict[str, Any], model: HomerModel) -> None:
    assert list(result.indices) == sorted(set(result.indices))
    tokens = sum(len(model.tokenize(document.text)) for document in result.documents)
    limits = [budget.get("max_tokens"), max(1, int(budget.get("max_share", 9) * result.usage.input_tokens))]
    assert tokens == result.usage.kept_tokens
    assert "top_k" in budget or tokens <= min(limit for limit in limits if limit is not None)
    for document, index, spans in zip(result.documents, result.indices, result.spans, strict=True):
        assert spans
        put_together(texts[index], spans, document.text, marker)
        whole(texts[index], spans)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    TEXTS,
    st.sampled_from(["[...]", "", "(cut)\n", "\u2026"]),
    st.sampled_from(["sentences", "passages", "documents"]),
    BUDGETS,
)
def test_what_is_left_stands_in_the_text(
    small: HomerModel, texts: list[str], marker: str, keep: Any, budget: dict[str, Any]
) -> None:
    compressor = Compressor(small, marker=marker)
    if not any(text.strip() for text in texts):
        with pytest.raises(InputError, match="0 hold text"):
            compressor.compress(QUESTION, texts, keep=keep, **budget)
        return
    result = compressor.compress(QUESTION, texts, keep=keep, **budget)
    check(result, texts, marker, budget, small)
    assert compressor.compress(QUESTION, texts, keep=keep, **budget) == result


def test_tokens_as_another_model_counts_them(small: HomerModel) -> None:
    texts = ["The house is old. The door code for the north gate is 48213. Nobody lives there.", "a,b\n1,2\n3,4"]
    compressor = Compressor(small, count=len, marker="")
    result = compressor.compress(QUESTION, texts, max_tokens=70)
    assert 40 < sum(len(document.text) for document in result.documents) == result.usage.kept_tokens <= 70
    given = sum(unit.end - unit.start for text in texts for unit in split_units(text))
    assert result.usage.input_tokens == given
    shared = compressor.compress(QUESTION, texts, max_share=0.5)
    assert 20 < shared.usage.kept_tokens <= given / 2
    assert compressor.score(QUESTION, texts) == Compressor(small).score(QUESTION, texts)
    with pytest.raises(InputError, match="count='words' is no function: give one from a text"):
        Compressor(small, count="words")  # type: ignore[arg-type]
    for wrong in (1.5, -1, None):
        with pytest.raises(InputError, match="what count gives for a text="):
            Compressor(small, count=lambda _, given=wrong: given).compress(QUESTION, texts, max_tokens=9)
