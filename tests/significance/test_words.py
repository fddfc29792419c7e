"""Words that question and context share: found in any script, weighed by how rare they are, and what they decide."""

import dataclasses
import math

import pytest
import torch

from homer import ConfigError, HomerModel, Question
from homer.significance.base import Observation
from homer.significance.sentences import number_parts
from homer.significance.words import MOST_TOLD, STEM, bm25, shared_words, terms


def told(mini: HomerModel, context: str, question: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What every context token is told, and the context's ids."""
    first, asked = (torch.tensor(mini.tokenize(text)) for text in (context, question))
    ids = torch.cat([first, asked])
    parts = number_parts(mini.tokenizer, ids)
    words = shared_words(mini.tokenizer, ids, range(len(first)), range(len(first), len(ids)), *parts)
    assert not words[len(first) :].any()
    return words[: len(first)], first


def best(mini: HomerModel, context: str, question: str) -> str:
    words, ids = told(mini, context, question)
    return mini.tokenizer.decode(ids[words == words.max()]).strip()


def test_bm25_is_that_of_its_formula() -> None:
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    found = bm25(groups, torch.tensor([0, 1, 4]), torch.tensor([0, 0, 1]), 2)
    rare = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    first = rare * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / (8 / 3)))
    second = rare * 1 * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / (8 / 3)))
    torch.testing.assert_close(found, torch.tensor([first] * 3 + [second] * 2 + [0.0] * 3))


def test_of_a_long_question_each_word_counts_less() -> None:
    groups, count = torch.arange(100), 50
    found = bm25(groups, torch.zeros(count, dtype=torch.long), torch.arange(count), count)
    assert 0.9 * MOST_TOLD < found[0] < 2.2 * MOST_TOLD
    assert not found[1:].any()


def test_the_sentence_with_the_rare_words_is_told_most(mini: HomerModel) -> None:
    context = (
        "The ferry is old. The ferry is red.\n\nThe lighthouse keeper was Ada Brown. He slept.\n\nThe ferry is late."
    )
    assert best(mini, context, "Which keepers lived in the lighthouses?") == "The lighthouse keeper was Ada Brown."


def test_a_sentence_is_told_by_its_passage_too(mini: HomerModel) -> None:
    context = "It rained in Oslo. Everyone stayed.\n\nThe harbour was empty. Nobody came."
    words, ids = told(mini, context, "What happened at the harbour?")
    texts = [mini.tokenizer.decode(number) for number in ids]
    came, stayed = (next(i for i, text in enumerate(texts) if text.strip() == one) for one in ("came", "stayed"))
    assert words[came] > words[stayed] == 0


def test_words_begin_where_words_begin(mini: HomerModel) -> None:
    words, _ = told(mini, "A cartoon about scars. A discarded idea.", "car")
    assert not words.any()  # a short word is whole
    assert told(mini, "The car is red. Nothing.", "Which CAR?")[0].any()


def test_scripts_without_spaces_share_pairs_of_letters() -> None:
    assert terms("what 北京大学 is") == ["what", "北京", "京大", "大学", "is"]
    assert terms("Lighthouses, lighthouse!") == ["Light", "light"]
    assert all(len(term) <= STEM for term in terms("extraordinarily long words"))


@pytest.mark.parametrize(
    ("context", "question", "answer"),
    [
        ("天气很好。\n\n北京大学在海淀区。\n\n火车晚点了。", "北京大学在哪里?", "北京大学在海淀区。"),
        ("Es regnet.\n\nDer Schlüssel liegt im Turm.\n\nEs schneit.", "Wo sind die Schlüssel?", "Schlüssel"),
    ],
)
def test_other_languages(mini: HomerModel, context: str, question: str, answer: str) -> None:
    assert answer in best(mini, context, question)


def test_no_shared_word_tells_nothing(mini: HomerModel) -> None:
    assert not told(mini, "The ferry is old.", "Wann?")[0].any()
    assert not told(mini, "The ferry is old.", "?!")[0].any()


def test_shared_words_decide_where_attention_does_not() -> None:
    scores = torch.full((2, 6), 1 / 6)
    numbers = torch.arange(6)[None]
    words = torch.tensor([[0.0, 0, 0, 9, 0, 0]])
    seen = Observation({}, numbers, numbers, None, 0, 0, 6, sentences=numbers, passages=numbers, words=words)
    assert int(Question().rank(scores, seen)[0].argmax()) == 3
    assert int(Question(words=0).rank(scores, seen)[0].argmax()) == 0
    scores[:, 1] = 3.0  # a factor of 18 by attention, to the power of 1.5, outweighs one of 6 by words
    assert int(Question().rank(scores, seen)[0].argmax()) == 1
    assert not Question(words=0).reads_words
    with pytest.raises(ConfigError, match="words=-1 is out of range"):
        Question(words=-1)


def test_the_document_with_the_words_is_read_last() -> None:
    scores, documents = torch.full((2, 6), 0.1), torch.tensor([-1, 0, 0, 1, 1, -1])
    words = torch.tensor([0.0, 9.0, 9.0, 0.0, 0.0, 0.0])
    assert Question().arrange(scores, documents, words).tolist() == [0, 3, 4, 1, 2, 5]
    assert Question().arrange(scores, documents).tolist() == list(range(6))


def test_what_answers_survives_a_model_that_sees_nothing(small: HomerModel) -> None:
    rooms = [f"Room {i} holds {i * 7} chairs. It is painted green." for i in range(40)]
    rooms[23] = "The observatory is closed on Mondays. It has a dome."
    prompt = small.build_prompt("When is the observatory closed?", rooms)

    def survives(words: float) -> bool:
        config = dataclasses.replace(small.config, significance=Question(words=words))
        kept = small.compress_prompt(prompt, config=config).kept_tokens - len(prompt.prefix_ids)
        inside = kept[(kept >= 0) & (kept < len(prompt.context_ids))]
        return "closed on Mondays" in small.tokenizer.decode(prompt.context_ids[inside.sort().values])

    assert survives(0.2)
    assert not survives(0)
