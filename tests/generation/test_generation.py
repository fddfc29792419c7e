import itertools
import threading

import pytest
import torch
from conftest import random_ids

from homer import CompactCache, GenerationError, HomerModel, InputError
from homer.generation.stream import Stream


@pytest.fixture(scope="module")
def cache(tiny: HomerModel) -> CompactCache:
    return tiny.compress(*random_ids(4, 200, 5))


@pytest.fixture(scope="module")
def story(mini: HomerModel) -> CompactCache:
    prompt = mini.build_prompt(
        "What is the door code for the north gate?", ["The door code for the north gate is 48213."]
    )
    return mini.compress_prompt(prompt)


def test_a_cache_can_be_used_twice(tiny: HomerModel, cache: CompactCache) -> None:
    keys = [key.clone() for key in cache.keys]
    first, ids = tiny.generate(cache, 10), torch.tensor([3, 4, 5])
    logits = tiny.forward(ids, cache)
    assert tiny.generate(cache, 10) == first
    assert torch.equal(tiny.forward(ids[None], cache), logits)
    assert logits.shape == (1, 3, 300)
    assert all(torch.equal(a, b) for a, b in zip(keys, cache.keys, strict=True))


def test_seeded_sampling_is_repeatable_and_leaves_the_global_state(tiny: HomerModel, cache: CompactCache) -> None:
    state = torch.get_rng_state()
    runs = [tiny.generate(cache, 20, temperature=1.5, seed=seed).token_ids for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny.generate(cache, 20, temperature=1.5, top_k=1, seed=3) == tiny.generate(cache, 20)
    assert tiny.generate(cache, 20, temperature=0, seed=3) == tiny.generate(cache, 20)
    assert tiny.generate(cache, 20, top_p=1e-6, seed=3) == tiny.generate(cache, 20)


def test_repetition_penalty_and_beams_are_those_of_transformers(tiny: HomerModel) -> None:
    parts = random_ids(4, 20, 5)  # one chunk: the plain model must say the same
    cache, ids = tiny.compress(*parts), torch.cat(parts)[None]
    options = {"max_new_tokens": 12, "pad_token_id": 0, "do_sample": False}
    for extra in ({"repetition_penalty": 1.7}, {"num_beams": 3}, {"num_beams": 2, "no_repeat_ngram_size": 2}):
        expected = tiny.model.generate(ids, **options, **extra)[0, ids.shape[1] :].tolist()
        assert tiny.generate(cache, 12, **extra).token_ids == expected


def test_streamed_text_is_the_generated_text(mini: HomerModel, story: CompactCache) -> None:
    whole = mini.generate(story, 30, temperature=1.2, seed=5)
    stream = mini.stream(story, 30, temperature=1.2, seed=5)
    pieces = list(stream)
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1
    assert stream.result() == whole
    assert whole.text == mini.tokenizer.decode(whole.token_ids, skip_special_tokens=True)


def test_the_answer_ends_at_the_end_token(mini: HomerModel, story: CompactCache) -> None:
    generation = mini.generate(story, 30)
    assert generation.text == "48213"
    assert generation.finish_reason == "stop"
    assert generation.token_ids[-1] == mini.tokenizer.eos_token_id
    assert mini.generate(story, 2).finish_reason == "length"


@pytest.mark.parametrize("stop", ["821", ["zzz", "13"], "8213"])
def test_stop_strings_across_token_borders(mini: HomerModel, story: CompactCache, stop: str | list[str]) -> None:
    cut = {"821": "4", "13": "482", "8213": "4"}[stop if isinstance(stop, str) else "13"]
    stream = mini.stream(story, 30, stop=stop)
    assert "".join(stream) == cut
    assert stream.finish_reason == "stop"


def test_a_partial_stop_string_is_not_lost(mini: HomerModel, story: CompactCache) -> None:
    assert mini.generate(story, 30, stop="213!").text == "48213"
    assert mini.generate(story, 4, stop="213!").text == "4821"


def test_text_of_several_bytes_a_token(mini: HomerModel) -> None:
    text = "Ünïcödé 日本 🙂 done"
    ids = mini.tokenizer(text, add_special_tokens=False).input_ids
    pieces = list(Stream(iter(ids), frozenset(), mini.tokenizer, ()))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_cancelling_stops_the_generation(tiny: HomerModel, mini: HomerModel) -> None:
    drawn: list[int] = []

    def endless() -> itertools.count:
        for i in itertools.count(10):
            drawn.append(i)
            yield i

    stream = Stream(endless(), frozenset(), mini.tokenizer, ())
    next(stream)
    timer = threading.Timer(0.05, stream.cancel)
    timer.start()
    assert stream.result().finish_reason == "cancelled"
    count = len(drawn)
    assert list(stream) == []
    assert len(drawn) == count


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 1000}, r"max_new_tokens=1000 after position .* window of 256"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"top_p": 2.0}, "top_p=2.0 is out of range: it must be between 0 and 1"),
        ({"stop": "a"}, "no(ne|t).*tokenizer|needs a tokenizer"),
        ({"repetition_penalty": 0}, "between 0.01 and 100"),
        ({"repetition_penalty": 1e-40}, "between 0.01 and 100"),
        ({"repetition_penalty": float("nan")}, "between 0.01 and 100"),
        ({"temperature": 1e-38}, "too near 0"),
        ({"temperature": float("nan")}, "at least 0"),
        ({"use_cache": False}, "use_cache"),
        ({"num_beams": 2, "seed": 3}, "seed"),
    ],
)
def test_bad_settings(tiny: HomerModel, cache: CompactCache, options: dict, words: str) -> None:
    with pytest.raises(GenerationError, match=words):
        tiny.generate(cache, **options)


def test_bad_ids(tiny: HomerModel, cache: CompactCache) -> None:
    with pytest.raises(InputError, match="holds the id 300, but the vocabulary has 300"):
        tiny.forward([300], cache)
    with pytest.raises(InputError, match="0 tokens"):
        tiny.forward([], cache)
    with pytest.raises(GenerationError, match="stream knows"):
        tiny.stream(cache, colour="red")
