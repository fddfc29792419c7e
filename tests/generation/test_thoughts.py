"""Thoughts are read apart token by token, and come before a grammar."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from homer import GenerationError, Grammar, Sampling, Stream, Thinking, Thought
from homer.generation.decoding import TextDecoder, first_stop, partial_stop
from homer.generation.thoughts import ThoughtMatcher, ThoughtReader
from tests.thinkers import ANSWER, SAID, THOUGHT, thinking_tokenizer

FREE = Thinking("<think>", "</think>")
OPEN = Thinking("<think>", "</think>", opened=True)


def ids_of(tokenizer: Any, *words: str) -> list[int]:
    """Ids of words: marks as control tokens, all else as bytes."""
    ids: list[int] = []
    for word in words:
        known = tokenizer.convert_tokens_to_ids(word.replace(" ", "Ġ"))
        ids += tokenizer.encode(word, add_special_tokens=False) if known is None else [known]
    return ids


def spelled(tokenizer: Any, text: str) -> list[int]:
    """The letters of a text, none of which is a control token."""
    return [token for letter in text for token in tokenizer.encode(letter, add_special_tokens=False)]


def read(tokenizer: Any, thinking: Thinking | None, ids: Sequence[int]) -> tuple[str, str, int]:
    reader = ThoughtReader(tokenizer, thinking)
    pieces = [piece for token in ids for piece in reader.push(token)] + list(reader.flush())
    thought = "".join(piece for piece in pieces if isinstance(piece, Thought))
    return thought, "".join(piece for piece in pieces if not isinstance(piece, Thought)), reader.tokens


def test_a_thought_is_read_apart() -> None:
    tokenizer = thinking_tokenizer()
    said = ids_of(tokenizer, *SAID[1:-1])
    assert read(tokenizer, FREE, said) == (THOUGHT, ANSWER, 5)
    assert read(tokenizer, OPEN, said[1:]) == (THOUGHT, ANSWER, 4)
    assert read(tokenizer, None, said) == ("", f"<think>{THOUGHT}</think>{ANSWER}", 0)
    assert read(tokenizer, FREE, spelled(tokenizer, "\n ") + said) == (THOUGHT, ANSWER, 5)
    assert read(tokenizer, FREE, ids_of(tokenizer, "35")) == ("", "35", 0)
    assert read(tokenizer, OPEN, ids_of(tokenizer, "The dewar")) == ("The dewar", "", 1)  # cut within
    assert read(tokenizer, FREE, []) == ("", "", 0)


def test_letters_that_are_no_control_token_are_no_mark() -> None:
    tokenizer = thinking_tokenizer()
    letters = spelled(tokenizer, "a</think>b")
    end = ids_of(tokenizer, "</think>")
    assert read(tokenizer, OPEN, [*letters, *end, *letters])[:2] == ("a</think>b", "a</think>b")
    assert read(tokenizer, FREE, spelled(tokenizer, "<think>a</think>b"))[:2] == ("", "<think>a</think>b")


def test_marks_that_are_plain_text() -> None:
    tokenizer = thinking_tokenizer(marks=False)
    letters = spelled(tokenizer, "<think>a </th b</think>c</think>")
    assert read(tokenizer, FREE, letters)[:2] == ("a </th b", "c</think>")
    assert read(tokenizer, FREE, spelled(tokenizer, "<thank you>"))[:2] == ("", "<thank you>")


def test_marks_of_several_tokens() -> None:
    tokenizer = thinking_tokenizer()
    thinking = Thinking("<|system|>analysis<|end|>", "<|end|><|user|><|system|>final<|end|>")
    begin, end = (tokenizer.encode(mark, add_special_tokens=False) for mark in (thinking.begin, thinking.end))
    inside = [*spelled(tokenizer, "a"), end[0], *spelled(tokenizer, "b")]
    assert read(tokenizer, thinking, [*begin, *inside, *end, *spelled(tokenizer, "c")])[:2] == ("ab", "c")


def test_stop_strings_end_answers_and_no_thoughts() -> None:
    tokenizer = thinking_tokenizer()
    said = ids_of(tokenizer, *SAID[1:])
    stream = Stream(iter(said), frozenset(said[-1:]), tokenizer, ["litres"], thinking=FREE)
    pieces = list(stream)
    assert [piece for piece in pieces if isinstance(piece, Thought)] == ["The dewar", " holds 35 </th", " ink> litres."]
    result = stream.result()
    assert (result.text, result.reasoning, result.finish_reason) == ("35 ", THOUGHT, "stop")
    assert result.reasoning_tokens == 5


def test_decoding() -> None:
    decoder = TextDecoder(thinking_tokenizer())
    first, second = thinking_tokenizer().encode("ü", add_special_tokens=False)
    assert (decoder.push(first), decoder.push(second), decoder.flush()) == ("", "ü", "")
    assert first_stop("abc", ["c", "b"]) == 1
    assert first_stop("abc", ["d"]) is None
    assert partial_stop("ab", ["bc"]) == 1


def allowed(matcher: ThoughtMatcher, width: int) -> set[int]:
    masked = matcher.mask(torch.zeros(1, width))
    return set((masked[0] == 0).nonzero().flatten().tolist())


def matcher_for(tokenizer: Any, thinking: Thinking, room: int, grammar: Grammar | None) -> ThoughtMatcher:
    pytest.importorskip("llguidance")
    from homer.text.constraining.matching import Grammars

    end_ids = frozenset([tokenizer.eos_token_id])
    inner = Grammars(tokenizer, len(tokenizer), end_ids).matcher(grammar, room) if grammar else None
    return ThoughtMatcher(tokenizer, thinking, inner, len(tokenizer), room, end_ids, spare=4)


def test_a_grammar_begins_behind_the_thought() -> None:
    tokenizer = thinking_tokenizer()
    matcher = matcher_for(tokenizer, FREE, 200, Grammar.choice(["35", "36"]))
    begin, end, three, five = ids_of(tokenizer, "<think>", "</think>", "3", "5")
    width = len(tokenizer)
    assert {begin, three} <= allowed(matcher, width)
    assert five not in allowed(matcher, width)
    matcher.accept(begin)
    assert allowed(matcher, width) == set(range(width)) - {tokenizer.eos_token_id}
    matcher.accept(five)
    assert not matcher.finished
    matcher.accept(end)
    assert begin not in allowed(matcher, width)
    for token in (three, five):
        assert token in allowed(matcher, width)
        matcher.accept(token)
    assert tokenizer.eos_token_id in allowed(matcher, width) or matcher.finished
    without = matcher_for(tokenizer, FREE, 200, Grammar.choice(["35", "36"]))
    without.accept(three)  # it may also answer at once
    assert begin not in allowed(without, width)
    with pytest.raises(GenerationError, match="does not go on"):
        without.accept(begin)


def test_a_thought_ends_in_time_for_what_follows() -> None:
    tokenizer = thinking_tokenizer()
    end, letter = ids_of(tokenizer, "</think>", "a")
    matcher = matcher_for(tokenizer, OPEN, 40, Grammar.choice(["35"]))
    steps = 0
    while allowed(matcher, len(tokenizer)) != {end}:
        matcher.accept(letter)
        steps += 1
    assert 20 < steps <= 30
    free = matcher_for(tokenizer, OPEN, 12, None)
    for _ in range(7):
        assert free.idle
        free.accept(letter)
    assert allowed(free, len(tokenizer)) == {end}
    free.accept(end)
    assert free.idle
    assert not free.finished
    assert not free.whole


def test_marks_of_plain_text_before_a_grammar() -> None:
    tokenizer = thinking_tokenizer(marks=False)
    matcher = matcher_for(tokenizer, FREE, 200, Grammar.choice(["35"]))
    for token in spelled(tokenizer, "<think>ab</think>35"):
        assert token in allowed(matcher, len(tokenizer))
        matcher.accept(token)
    assert matcher.finished or tokenizer.eos_token_id in allowed(matcher, len(tokenizer))


def test_what_is_no_thinking_is_refused() -> None:
    with pytest.raises(GenerationError, match="thinking"):
        Sampling(thinking="<think>")  # type: ignore[arg-type]
