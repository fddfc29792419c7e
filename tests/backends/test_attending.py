"""Attention in few shapes: what it gives does not depend on the shape that a kernel was planned for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from homer.backends import attending
from homer.backends.attending import attend, attend_in_groups, last_rows, planned_len, planned_lens, unplanned


def sides(length: int, groups: int = 1, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (batch, length, heads, head dim)."""
    generator = torch.Generator().manual_seed(length)
    query, key, value = (
        torch.randn(batch, length, heads, 8, generator=generator) for heads in (4, 4 // groups, 4 // groups)
    )
    return query, key, value


def by_hand(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """The same written out, head by head."""
    groups = query.shape[2] // key.shape[2]
    key, value = (t.repeat_interleave(groups, 2).transpose(1, 2) for t in (key, value))
    logits = query.transpose(1, 2) @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    attended: Tensor = logits.masked_fill(~mask, -torch.inf).softmax(-1) @ value
    return attended.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_is_causal_attention(groups: int, batch: int) -> None:
    parts = sides(21, groups, batch)
    expected = by_hand(*parts, last_rows(21, 21, torch.device("cpu")))
    torch.testing.assert_close(attend(*parts), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [1025, 1100, 1152])
def test_a_length_that_is_not_planned_for_gives_the_same(
    length: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, asked = sides(length, groups), list[int]()
    expected, kernel = attend(*parts), torch.nn.functional.scaled_dot_product_attention

    def noted(query: Tensor, *rest: Any, **options: Any) -> Tensor:
        asked.append(query.shape[2])
        return kernel(query, *rest, **options)

    monkeypatch.setattr(attending, "is_planned", lambda *_: True)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    torch.testing.assert_close(attend(*parts), expected, atol=1e-5, rtol=1e-4)
    assert asked == [1152]


@pytest.mark.parametrize(("length", "batch"), [(1024, 1), (1100, 2), (8, 1)])
def test_short_chunks_and_several_take_a_kernel_that_needs_no_plan(
    length: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(attending, "is_planned", lambda *_: True)

    def other(query: Tensor, *_: Tensor) -> Tensor:
        taken.append(query.shape[1])
        return query

    monkeypatch.setattr(attending, "_attend_unplanned", other)
    attend(*sides(length, batch=batch))
    assert taken == [length]


def test_nothing_is_planned_on_a_cpu() -> None:
    assert not attending.is_planned(*sides(2000))
    enabled: Callable[[], bool] = torch.backends.cuda.cudnn_sdp_enabled
    before = enabled()
    with unplanned(sides(4)[0]):
        assert enabled() is before


def test_few_lengths_are_planned_for_and_none_is_much_longer() -> None:
    for length in range(2, 20_000):
        planned = planned_len(length)
        assert length <= planned <= length * 1.125
        assert planned_len(planned) == planned
    assert planned_lens(2560) == [1152, 1280, 1408, 1536, 1664, 1792, 1920, 2048, 2304, 2560]
    assert planned_lens(1024) == []


@pytest.mark.parametrize("groups", [1, 2])
def test_few_queries_see_what_stands_before_them(groups: int) -> None:
    query, key, value = sides(30, groups)
    mask = last_rows(7, 30, query.device)
    expected = by_hand(query[:, -7:], key, value, mask)
    ours = attend_in_groups(query[:, -7:], key.transpose(1, 2), value.transpose(1, 2), mask)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
