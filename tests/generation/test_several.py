"""Several answers to one prompt: compressed once, generated together, each what it is alone."""

from typing import Any

import pytest

from homer import AnswerStreams, GenerationError, HomerModel, Sampling, TimeoutExceededError

DOCUMENTS = ["The dewar holds 35 litres. It stands in room 4.", "The board met on 3 May."]
DRAWN: dict[str, Any] = {"temperature": 1.5, "max_new_tokens": 8}


def stream_of(model: HomerModel, **options: Any) -> Any:
    return model.stream_prompt(model.build_prompt("How many litres does the dewar hold?", DOCUMENTS), **options)


def test_each_is_what_it_is_alone_and_the_prompt_is_compressed_once(
    mini: HomerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [stream_of(mini, seed=7 + number, **DRAWN).answer() for number in range(4)]
    compressed: list[int] = []
    compress = HomerModel._compress
    monkeypatch.setattr(
        HomerModel, "_compress", lambda *given, **options: compressed.append(1) or compress(*given, **options)
    )
    steps = _count_steps(mini, monkeypatch)
    streams = stream_of(mini, seed=7, **DRAWN).several(4)
    texts = dict.fromkeys(range(4), "")
    for piece in streams:
        texts[piece.choice] += piece
    answers = streams.answers()
    assert [answer.text for answer in answers] == [answer.text for answer in alone] == list(texts.values())
    assert len({answer.text for answer in answers}) > 1
    assert len(compressed) == 1
    assert len(steps) <= max(answer.usage.output_tokens for answer in answers) + 1  # one for all of them


def _count_steps(model: HomerModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    steps: list[int] = []
    step = type(model._streams.batch)._step
    monkeypatch.setattr(
        type(model._streams.batch), "_step", lambda batch: steps.append(len(batch._rows)) or step(batch)
    )
    return steps


def test_the_likeliest_text_is_the_same_each_time(mini: HomerModel) -> None:
    first, second = stream_of(mini).several(2).answers()
    assert first == second


def test_without_a_seed_they_differ(mini: HomerModel) -> None:
    answers = stream_of(mini, temperature=9.0, max_new_tokens=10).several(3).answers()
    assert len({answer.text for answer in answers}) == 3


def test_a_seed_goes_on_and_stays_in_range() -> None:
    assert [Sampling(seed=5).sample(n).seed for n in range(3)] == [5, 6, 7]
    assert Sampling(seed=2**64 - 1).sample(1).seed == 0
    assert Sampling().sample(3).seed is None


def test_they_are_cancelled_and_timed_together(mini: HomerModel) -> None:
    streams = stream_of(mini, **DRAWN).several(3)
    next(streams)
    streams.cancel()
    assert {answer.finish_reason for answer in streams.answers()} <= {"cancelled", "stop"}
    assert len(mini._streams.batch._rows) == 0
    late = stream_of(mini, **DRAWN).within(1e-9).several(2)
    with pytest.raises(TimeoutExceededError):
        late.answers()
    never = stream_of(mini, **DRAWN).several(2)
    assert isinstance(never, AnswerStreams)
    never.within(30).cancel()
    assert [answer.finish_reason for answer in never.answers()] == ["cancelled"] * 2


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_a_count_that_is_none_is_refused(mini: HomerModel, count: Any) -> None:
    with pytest.raises(GenerationError, match="n="):
        stream_of(mini).several(count)
