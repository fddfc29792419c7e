"""What a configuration comes to for a model; and the three classes that a HomerModel is made of."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from conftest import random_ids, tiny_llama

from homer import CompactCache, ConfigError, HomerConfig, HomerModel
from homer.calibrating.base import Measurable
from homer.model.citing import CitingModel
from homer.model.contexts import ContextModel
from homer.model.settings import Settings, asks_for_heads
from homer.model.tokens import TokenModel
from homer.reuse.encode import Context
from homer.significance import Paper, Question

CONFIG = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2)


def test_what_fits_the_window_is_one_chunk(tiny: HomerModel) -> None:
    settings = Settings(tiny.decoder, tiny.name, lambda _: None)
    resolved = settings.resolve(CONFIG)
    room = tiny.window - settings.whole_len(16)
    assert room == 16
    whole = settings.whole(resolved, tiny.window - 16, 16)
    assert (whole.max_chunk_len, whole.target_len) == (tiny.window - 16, tiny.window - 16)
    assert settings.whole(resolved, tiny.window - 15, 16) is resolved
    assert settings.settle(dataclasses.replace(CONFIG, significance="auto")).significance == "paper"
    with pytest.raises(ConfigError, match="config is a dict: give a HomerConfig"):
        settings.resolve({"max_chunk_len": 32})  # type: ignore[arg-type]


def test_a_plan_is_that_of_the_model(tiny: HomerModel) -> None:
    settings = Settings(tiny.decoder, tiny.name, lambda _: None)
    assert settings.plan(CONFIG, (4, 200, 6), None)[1] == tiny.plan(4, 200, 6, config=CONFIG)


@pytest.mark.parametrize(
    ("given", "asks"), [("question", True), (Question(), True), ("paper", False), (Paper(), False)]
)
def test_which_significances_ask_for_heads(given: object, asks: bool) -> None:
    assert asks_for_heads(given) is asks


def test_ids_alone_need_only_a_token_model() -> None:
    model = TokenModel(tiny_llama(), config=CONFIG)
    prefix, context, suffix = random_ids(4, 90, 5)
    cache = model.compress(prefix, context, suffix)
    assert len(cache) <= 32
    assert model.measure() is None
    keeping = ContextModel(tiny_llama(), config=dataclasses.replace(CONFIG, suffix_budget=5))
    encoded = keeping.encode(context, prefix=prefix, suffix_budget=5)
    found = keeping.compress_encoded(encoded, suffix)
    assert found.kept_tokens.tolist() == keeping.compress(prefix, context, suffix).kept_tokens.tolist()
    assert list(inspect.getmro(HomerModel)[1:4]) == [CitingModel, ContextModel, TokenModel]


def test_a_model_is_all_that_measuring_asks_for(tiny: HomerModel) -> None:
    names = set(Measurable.__annotations__) | {name for name in vars(Measurable) if not name.startswith("_")}
    assert {"decoder", "tokenizer", "build_prompt"} < names
    assert all(hasattr(tiny, name) for name in names)


class _Gpu:
    """What settings ask of a decoder, as one on a GPU would tell it."""

    def __init__(self, hidden_size: int = 4096, window: int = 4096, sliding_window: int | None = None) -> None:
        self.window, self.layers, self.hidden_size, self.sliding_window = window, 32, hidden_size, sliding_window
        self.device = torch.device("cuda")


def _on(decoder: object, devices: int = 1) -> Settings:
    return Settings(decoder, "a model", lambda _: None, devices)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hidden_size", "tokens", "devices", "found"),
    [(4096, 60_000, 1, 2), (4096, 100, 1, 1), (1536, 60_000, 1, 4), (576, 60_000, 1, 8), (576, 10_000, 2, 4)],
)
def test_on_a_gpu_as_many_leaves_run_together_as_fill_it(
    hidden_size: int, tokens: int, devices: int, found: int
) -> None:
    settings = _on(_Gpu(hidden_size), devices)
    resolved, plan = settings.plan(HomerConfig(), (20, tokens, 40), None)
    assert resolved.chunk_batch_size == found <= len(plan.spans)
    given = HomerConfig(chunk_batch_size=3)
    assert settings.plan(given, (20, tokens, 40), None)[0].chunk_batch_size == 3
    assert settings.at_once(given, 2000, 64) == 3


def test_leaves_to_be_looked_at_are_left_to_all_devices() -> None:
    assert [_on(_Gpu(576), devices).at_once(HomerConfig(), 2000, 24) for devices in (1, 2, 8)] == [8, 8, 2]


def test_on_a_cpu_leaves_run_one_by_one(tiny: HomerModel) -> None:
    settings = _on(tiny.decoder)
    assert settings.plan(HomerConfig(), (4, 2000, 6), None)[0].chunk_batch_size == 1
    assert settings.at_once(HomerConfig(), 30, 64) == 1
    assert settings.resolve(HomerConfig()).chunk_batch_size == 1


def test_leaves_are_encoded_in_batches_that_fill_a_gpu(tiny: HomerModel) -> None:
    given = HomerConfig(suffix_budget=64)
    context = Context(torch.zeros(20, dtype=torch.long), torch.zeros(60_000, dtype=torch.long))
    for decoder, found in ((_Gpu(), 2), (_Gpu(576), 8), (tiny.decoder, 1)):
        assert _on(decoder).plan_encoding(given, context, None)[0].chunk_batch_size == found


def test_settings_without_a_batch_are_saved_and_loaded(tmp_path: Path) -> None:
    assert HomerConfig.from_dict(HomerConfig().to_dict()).chunk_batch_size is None
    cache = TokenModel(tiny_llama(), config=HomerConfig()).compress(*random_ids(4, 900, 5))
    assert cache.config.chunk_batch_size == 1
    cache.save(tmp_path / "cache.safetensors")
    assert CompactCache.load(tmp_path / "cache.safetensors").plan == cache.plan
