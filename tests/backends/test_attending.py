"""Attention in few shapes: what it gives does not depend on the shape that a kernel was planned for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import SUPPORTED, build
from conftest import random_ids
from torch import Tensor

from homer import HomerConfig, HomerModel
from homer.backends import attending
from homer.backends.attending import attend, attend_in_groups, last_rows, planned_len, planned_lens, rows_for, unplanned


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


def test_a_few_more_rows_change_nothing_before_them() -> None:
    parts = sides(1100)
    rows = rows_for(1, 1100, plans=True)
    assert rows == 1152
    longer = [torch.cat([part, part.new_zeros(1, rows - 1100, 4, 8)], 1) for part in parts]
    ours = attend(longer[0], longer[1], longer[2], plans=True)
    torch.testing.assert_close(ours[:, :1100], attend(*parts), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("length", "batch"), [(1024, 1), (1100, 2), (8, 1)])
def test_short_chunks_and_several_take_a_kernel_that_needs_no_plan(
    length: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def other(query: Tensor, *_: Tensor) -> Tensor:
        taken.append(query.shape[2])
        return query

    monkeypatch.setattr(attending, "_attend_unplanned", other)
    assert rows_for(batch, length, plans=True) == length
    attend(*sides(length, batch=batch), plans=True)
    assert taken == [length]


def test_where_nothing_is_planned_chunks_have_their_own_length() -> None:
    assert rows_for(1, 1100, plans=False) == 1100


@pytest.mark.parametrize("name", ["llama-2", "qwen3"])
def test_the_fast_path_with_rows_that_are_planned_for_equals_the_simple_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "_SHORT", 4)
    rows: list[int] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def noted(query: Tensor, *rest: Any, **options: Any) -> Tensor:
        rows.append(query.shape[2])
        return kernel(query, *rest, **options)

    def flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return kernel(query, key, value, is_causal=True, enable_gqa=query.shape[1] != key.shape[1])

    monkeypatch.setattr(attending, "_attend_unplanned", flash)
    config = HomerConfig(max_chunk_len=45, target_len=40, layers_warmup=2, chunk_batch_size=2, significance="paper")
    fast, simple = (HomerModel(build(*SUPPORTED[name]), config=config, fast=way) for way in (True, False))
    parts = random_ids(4, 350, 6, vocabulary=199)
    reference = simple.compress(*parts)
    decoder: Any = fast.decoder
    decoder._plans = True
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    ours = fast.compress(*parts)
    assert set(rows) & {40, 44, 48}  # what was planned for
    assert 45 not in rows
    assert ours.kept_tokens.tolist() == reference.kept_tokens.tolist()
    torch.testing.assert_close(ours.logits, reference.logits, atol=2e-5, rtol=1e-4)
    for a, b in zip((*ours.keys, *ours.values), (*reference.keys, *reference.values), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_nothing_is_planned_on_a_cpu() -> None:
    assert not attending.is_planned(*sides(2000)[:2])
    enabled: Callable[[], bool] = torch.backends.cuda.cudnn_sdp_enabled
    before = enabled()
    with unplanned(sides(4)[0].transpose(1, 2)):
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
