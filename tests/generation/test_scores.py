"""Log-probabilities: the model's own, whatever is drawn, held to or cut, alone and among others."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from conftest import tiny_llama

from homer import Answer, CompactCache, GenerationError, Grammar, HomerConfig, HomerModel, Piece, TokenLogprob, Usage
from homer.generation.scores import Score, measure, told
from homer.generation.telling import Teller
from homer.text.spelling import Spelling
from homer.view.logprobs import LEAST
from tests.byte_tokenizers import byte_tokenizer

SETTINGS: list[dict[str, Any]] = [
    {"logprobs": 0},
    {"logprobs": 20, "temperature": 1.5, "seed": 3, "top_k": 4},
    {"logprobs": 3, "repetition_penalty": 1.7},
    {"logprobs": 2, "temperature": 1.0, "seed": 1},
    {},
]


@pytest.fixture(scope="module")
def model() -> HomerModel:
    return HomerModel(tiny_llama(window=512), byte_tokenizer(), HomerConfig(max_chunk_len=64, layers_warmup=2), False)


@pytest.fixture(scope="module")
def cache(model: HomerModel) -> CompactCache:
    ids = torch.arange(3, 40)
    return model.compress(ids[:4], ids[4:30], ids[30:])


def expected(model: HomerModel, cache: CompactCache, token_ids: list[int]) -> torch.Tensor:
    """(tokens, vocabulary): what the model itself says before each token."""
    after = model.forward(torch.tensor(token_ids), cache)[0]
    return torch.cat([cache.logits, after[:-1].float()]).log_softmax(-1)


def check(model: HomerModel, cache: CompactCache, token_ids: list[int], tokens: Any, count: int) -> None:
    rows = expected(model, cache, token_ids)
    assert [token.id for token in tokens] == token_ids
    for row, token in zip(rows, tokens, strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        values, ids = row.topk(count) if count else (row[:0], row[:0])
        assert [other.logprob for other in token.top] == pytest.approx(values.tolist(), abs=1e-4)
        assert [other.id for other in token.top] == ids.tolist()


@pytest.mark.parametrize("settings", SETTINGS[:4])
def test_they_are_the_models_own_whatever_is_drawn(
    model: HomerModel, cache: CompactCache, settings: dict[str, Any]
) -> None:
    generation = model.generate(cache, 20, **settings)
    check(model, cache, generation.token_ids, generation.logprobs, settings["logprobs"])


def test_a_forced_token_keeps_its_own(model: HomerModel, cache: CompactCache) -> None:
    generation = model.generate(cache, 30, grammar=Grammar.choice(["日本 🎉"]), logprobs=5)
    assert generation.text == "日本 🎉"
    check(model, cache, generation.token_ids, generation.logprobs, 5)
    assert bytes(byte for token in generation.logprobs for byte in token.bytes).decode() == "日本 🎉"
    assert min(token.logprob for token in generation.logprobs) < -1  # forced, and not likely


def test_among_others_each_stream_is_told_its_own(model: HomerModel, cache: CompactCache) -> None:
    alone = [model.generate(cache, 12, **settings) for settings in SETTINGS]
    streams = [model.stream(cache, 12, **settings) for settings in SETTINGS]
    for stream in streams:
        stream.enter()
    with ThreadPoolExecutor(len(streams)) as pool:
        together = list(pool.map(lambda stream: stream.result(), streams))
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        assert (one.logprobs is None) == (other.logprobs is None)
        for a, b in zip(one.logprobs or (), other.logprobs or (), strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
    assert alone[-1].logprobs is None


def test_what_a_stop_string_cuts_is_not_told(model: HomerModel, cache: CompactCache) -> None:
    whole = model.generate(cache, 30, temperature=2.0, seed=1, logprobs=0)
    stop = whole.text[5:7]
    cut = model.generate(cache, 30, temperature=2.0, seed=1, logprobs=0, stop=stop)
    assert (cut.finish_reason, cut.text) == ("stop", whole.text[: whole.text.index(stop)])
    assert len(cut.logprobs) < len(cut.token_ids)
    told_text = bytes(byte for token in cut.logprobs for byte in token.bytes).decode(errors="replace")
    assert told_text == cut.text


def test_what_is_measured_is_read_by_rows() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [2.0, 2.0, 2.0]])
    measured = [part.tolist() for part in measure(logits, torch.tensor([2, 0]), [9, None])]
    first, second = told(measured, [9, None])
    assert second is None
    assert first.logprob == -torch.inf
    assert [token for token, _ in first.top] == [1, 0, 2]
    assert measure(logits, torch.tensor([1, 0]), [None, None]) == []
    assert told([], [None, None]) == [None, None]
    assert TokenLogprob.of(2, first.logprob, b"x").logprob == LEAST


def test_a_token_is_told_when_its_text_is_certain() -> None:
    teller = Teller([Score(-0.5, [(1, -0.25)]), Score(-1.0, [])], Spelling(None))
    teller.note(0, 7, 0)
    teller.note(1, 8, 3)
    teller.settle(3)
    assert [(token.id, [other.id for other in token.top]) for token in teller.told] == [(7, [1])]
    teller.settle(None)
    assert [token.id for token in teller.told] == [7, 8]


def test_an_answer_tells_them_and_is_read_back(mini: HomerModel) -> None:
    options: dict[str, Any] = {"logprobs": 2}
    answer = mini.ask("What is the code?", ["The code is 48213."], **options)
    assert bytes(byte for token in answer.logprobs for byte in token.bytes).decode().strip() == answer.text
    assert all(len(token.top) == 2 and token.top[0].logprob == token.logprob for token in answer.logprobs)  # greedy
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer
    assert "logprobs" not in Answer("a", (), Usage(1, 1, 1), "stop").to_dict()
    stream = mini.stream_prompt(mini.build_prompt("What is the code?", ["The code is 48213."]), **options)
    pieces = [piece for piece in stream if isinstance(piece, Piece)]
    assert "".join(pieces) == answer.text
    assert [token for piece in pieces for token in piece.logprobs] == list(answer.logprobs)[: len(pieces)]
    again = pickle.loads(pickle.dumps(pieces[0]))
    assert (again, again.logprobs, again.choice) == (pieces[0], pieces[0].logprobs, 0)


@pytest.mark.parametrize(
    ("options", "named"), [({"logprobs": 21}, "20"), ({"logprobs": True}, "logprobs"),
                           ({"logprobs": 1, "num_beams": 2}, "num_beams")],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(
    model: HomerModel, cache: CompactCache, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(GenerationError, match=named):
        model.generate(cache, 5, **options)
