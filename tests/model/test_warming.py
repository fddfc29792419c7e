"""Warming up: it runs what a first question would run, and leaves the model as it was."""

from typing import Any

import pytest
import torch

from homer import CompactCache, HomerConfig, HomerModel
from homer.backends.reference import ReferenceDecoder
from homer.model.warming import warm_up


def test_it_merges_chunks_and_takes_steps(small: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []
    monkeypatch.setattr(ReferenceDecoder, "warm_up", lambda self, longest: planned.append(longest))
    before = small.config, small.ask("What is it?", ["A code."], max_new_tokens=3).text
    caches: list[CompactCache] = []
    compress = small.compress

    def noted(*parts: Any, **options: Any) -> CompactCache:
        caches.append(compress(*parts, **options))
        return caches[-1]

    monkeypatch.setattr(small, "compress", noted)
    warm_up(small, [small.decoder])
    assert planned == [small.window]
    assert len(caches[0]) <= small.chunk_len // 2
    monkeypatch.undo()
    assert (small.config, small.ask("What is it?", ["A code."], max_new_tokens=3).text) == before


@pytest.mark.parametrize("length", [4, 5, 40])
def test_chunks_may_be_as_short_as_settings_allow(small: HomerModel, length: int) -> None:
    model = HomerModel(small.model, small.tokenizer, HomerConfig(max_chunk_len=length, target_len=length))
    warm_up(model, [model.decoder])


def test_nothing_is_warmed_up_on_a_cpu(small: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homer.model.model.warm_up", lambda *_: pytest.fail("a CPU has nothing to warm up"))
    assert torch.device("cpu") == small.decoder.device
    small.prepare()
