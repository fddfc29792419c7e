"""What a configuration comes to for a model; and the three classes that a HomerModel is made of."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from conftest import random_ids, tiny_llama
from small import asked_small

from homer import Calibration, CalibrationError, CompactCache, ConfigError, Document, HomerConfig, HomerModel, Prompt
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
    room = tiny.window - settings.whole_len(CONFIG, 16)
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
        self.device, self.steady_len = torch.device("cuda"), None


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


LEFT = HomerConfig()  # all is left to the model: of a window of 256, chunks of 128 and leaves of 160 at most
QUESTION = HomerConfig(significance="question")
AFFIX = 8 + 20


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> HomerModel:
    return asked_small(tmp_path_factory.mktemp("asked"))


def test_leaves_are_longer_where_half_as_many_then_do(asked: HomerModel) -> None:
    room, more = 128 - AFFIX, 160 - AFFIX
    for context, leaves in ((4 * room, 4), (4 * room + 1, 4), (4 * more, 4), (4 * more + 1, 8), (2 * more, 2)):
        plan = asked.plan(8, context, 20, config=QUESTION)
        assert len(plan.spans) == leaves
        assert max(plan.lengths[0]) <= 160
        assert max(max(row) for row in plan.lengths[1:]) <= 128
        assert plan.reads_anew
        assert plan.next_position == plan.final_len  # so that longer leaves take nothing of the window
    assert len(asked.plan(8, room + 1, 20, config=QUESTION).spans) == 2  # never one


def test_room_for_longer_suffixes_counts(asked: HomerModel) -> None:
    config = dataclasses.replace(QUESTION, suffix_budget=40)
    room, more = 128 - 48, 160 - 48
    for context, leaves in ((4 * room, 4), (4 * room + 1, 4), (4 * more, 4), (4 * more + 1, 8)):
        plans = [asked.plan(8, context, suffix, config=config) for suffix in (1, 20, 40)]
        assert [len(plan.spans) for plan in plans] == [leaves] * 3
        assert plans[0].spans == plans[1].spans == plans[2].spans


@pytest.mark.parametrize(
    "given",
    [
        {"max_chunk_len": 128},
        {"max_initial_chunk_len": 128},
        {"significance": "paper"},
        {"significance": "standardized"},
        {"refresh_suffix": False},
    ],
)
def test_leaves_are_as_long_as_chunks_where_more_is_not_ours_to_choose(
    asked: HomerModel, given: dict[str, object]
) -> None:
    plan = asked.plan(8, 401, 20, config=dataclasses.replace(QUESTION, **given))
    assert len(plan.spans) == 8
    assert max(plan.lengths[0]) <= 128


def test_leaves_that_end_with_documents_are_as_long_as_chunks(asked: HomerModel) -> None:
    assert max(asked.plan(8, 401, 20, [401], config=QUESTION).lengths[0]) <= 128


@pytest.mark.parametrize("more", [{"sliding_window": 2048}, {"sliding_window": 3000}, {"steady_len": 4096}])
def test_nothing_that_ends_at_half_the_window_is_passed(more: dict[str, object]) -> None:
    decoder = _Gpu(sliding_window=more.get("sliding_window"))  # type: ignore[arg-type]
    decoder.steady_len = more.get("steady_len")  # type: ignore[assignment]
    known = Calibration(torch.zeros(32, 0), question_heads=torch.eye(32, 2))
    plans = [
        Settings(one, "a model", lambda _: known).plan(QUESTION, (20, 8000, 40), None)  # type: ignore[arg-type]
        for one in (decoder, _Gpu())
    ]
    assert [max(plan.lengths[0]) <= 2048 for _, plan in plans] == [True, False]
    assert [resolved.max_initial_chunk_len for resolved, _ in plans] == [None, 2560]


def test_a_calibration_of_shorter_chunks_is_no_hindrance(asked: HomerModel) -> None:
    known = dataclasses.replace(asked.calibration, bias=torch.zeros(6, 128))
    model = HomerModel(asked.model, asked.tokenizer, QUESTION, known)
    assert len(model.compress(*random_ids(8, 401, 20))) <= 128
    with pytest.raises(CalibrationError, match="covers 128 distances, a chunk here spans"):
        model.compress(*random_ids(8, 401, 20), config=HomerConfig(max_chunk_len=200, significance="paper"))


def test_measured_or_not_the_plan_is_the_same(asked: HomerModel) -> None:
    asks = dataclasses.replace(asked.calibration, metadata=asked.calibration.metadata | {"found": {"question": 1.0}})
    measured: list[object] = []
    settings = Settings(asked.decoder, asked.name, lambda kind: measured.append(kind) or asks)
    resolved, plan = settings.plan(LEFT, (8, 401, 20), None)
    assert measured
    assert (resolved.significance, resolved.max_initial_chunk_len, len(plan.spans)) == ("question", 160, 4)
    assert plan == settings.plan(QUESTION, (8, 401, 20), None)[1]


def test_what_fits_the_window_stays_one_chunk(asked: HomerModel) -> None:
    settings = asked._settings
    for length in (140, 160, 200, settings.whole_len(QUESTION, None)):
        whole = settings.whole(settings.resolve(QUESTION), length)
        assert len(settings.plan(whole, (8, length - 28, 20), None)[1].spans) == 1
    again = settings.whole(settings.resolve(QUESTION), settings.whole_len(QUESTION, None) + 1)
    assert again.max_chunk_len == 128


def test_an_answer_may_be_as_long_as_before(asked: HomerModel) -> None:
    model = HomerModel(asked.model, asked.tokenizer, QUESTION, asked.calibration)
    parts = model.build_prompt("Who?", ["text"])
    context = 4 * (160 - len(parts.prefix_ids) - len(parts.suffix_ids))
    words = next(n for n in range(context, 0, -1) if len(model.tokenize(" word" * n)) < context - 20)
    prompt = model.build_prompt("Who?", [" word" * words])
    cache = model.compress_prompt(prompt, max_new_tokens=128)
    assert max(cache.plan.lengths[0]) > 128
    assert len(model.generate(cache, 128).token_ids) == 128


def test_an_encoded_context_has_the_leaves_of_its_questions(asked: HomerModel) -> None:
    prefix, context = random_ids(8, 4 * (160 - 48))
    encoded = asked.encode(context, prefix=prefix, suffix_budget=40, config=QUESTION)
    assert (len(encoded.leaves), encoded.config.max_initial_chunk_len) == (4, 160)
    config = dataclasses.replace(QUESTION, suffix_budget=40)
    for length in (3, 40):
        (suffix,) = random_ids(length, seed=length)
        ours = asked.compress_encoded(encoded, suffix)
        fresh = asked.compress(prefix, context, suffix, config=config)
        assert ours.kept_tokens.tolist() == fresh.kept_tokens.tolist()
        assert ours.plan == fresh.plan
        assert len(ours.plan.spans) == 4
    longer = asked.compress_encoded(encoded, random_ids(41)[0], reencode=True)
    assert len(longer.plan.spans) == 8  # 41 tokens of room are too many for four leaves


def test_a_cache_made_with_longer_leaves_is_saved_and_gives_the_same_settings(
    asked: HomerModel, tmp_path: Path
) -> None:
    parts = random_ids(8, 401, 20)
    cache = asked.compress(*parts, config=QUESTION)
    cache.save(tmp_path / "cache.safetensors")
    loaded = CompactCache.load(tmp_path / "cache.safetensors")
    assert loaded.plan == cache.plan == asked.plan(8, 401, 20, config=QUESTION)
    assert asked.compress(*parts, config=loaded.config).kept_tokens.tolist() == cache.kept_tokens.tolist()


def test_less_than_the_window_may_be_read_at_a_time(tiny: HomerModel) -> None:
    settings = Settings(tiny.decoder, tiny.name, lambda _: None)
    less = HomerConfig(window=64, significance="paper")
    assert settings.resolve(less).max_chunk_len == 32
    assert settings.whole_len(less, 16) == 48
    ids = torch.arange(60) % 50
    parts = ids[:4], ids[4:-8], ids[-8:]
    assert len(tiny.compress(*parts, config=less)) == 32
    prompt = Prompt(*parts, (Document("a"),), torch.zeros(48, 3, dtype=torch.long), "")
    assert len(tiny.compress_prompt(prompt, config=less, max_new_tokens=16)) == 32  # not whole, as by all of the window
    assert len(tiny.compress_prompt(prompt, config=less, max_new_tokens=4)) == 60
    assert len(tiny.compress_prompt(prompt, config=HomerConfig(significance="paper"), max_new_tokens=16)) == 60
    cache = tiny.compress(*parts, config=less)
    assert len(tiny.generate(cache, 100).token_ids) == 100  # new tokens have all of the window


def test_no_more_than_the_window_can_be_read_at_a_time(tiny: HomerModel) -> None:
    settings = Settings(tiny.decoder, tiny.name, lambda _: None)
    with pytest.raises(
        ConfigError, match=rf"window={tiny.window + 1} is beyond the model's window of {tiny.window} tok"
    ):
        settings.resolve(HomerConfig(window=tiny.window + 1))
    with pytest.raises(ConfigError, match="window"):
        HomerConfig(window=7)
    assert settings.resolve(HomerConfig(window=tiny.window)).max_chunk_len == tiny.window // 2
