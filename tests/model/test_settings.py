"""What a configuration comes to for a model; and the three classes that a HomerModel is made of."""

import dataclasses
import inspect

import pytest
from conftest import random_ids, tiny_llama

from homer import ConfigError, HomerConfig, HomerModel
from homer.calibrating.base import Measurable
from homer.model.citing import CitingModel
from homer.model.contexts import ContextModel
from homer.model.settings import Settings, asks_for_heads
from homer.model.tokens import TokenModel
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
