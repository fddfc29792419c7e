"""Significance: its parts on small tensors, how scores travel up the tree, and one's own."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from conftest import random_ids, tiny_llama

from homer import (
    Calibration,
    CompactCache,
    ConfigError,
    HomerConfig,
    HomerModel,
    Observation,
    Significance,
    Standardized,
)
from homer.backends.entries import Entries
from homer.merging.chunk import Chunk, merge
from homer.merging.node import Node
from homer.significance import standardized
from homer.significance.scores import by_sentence, own_norms, pool, running, select, significance, z_scores
from homer.significance.sentences import LONGEST, Sentences

SMALL = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2, significance="standardized")


def norms(layers: int = 6, heads: int = 4, distances: int = 40) -> Calibration:
    zeros = torch.zeros(layers, heads, distances)
    return Calibration(zeros[:, 0], means=zeros.half(), deviations=zeros.half() + 1)


def test_excess_is_in_deviations_of_the_same_head_at_the_same_distance() -> None:
    logits = torch.tensor([[[5.0, 1.0, 2.0]], [[4.0, 3.0, 2.0]]])  # two chunks, one head
    distances = torch.tensor([[2, 1, 0], [1, 1, 0]])
    means, inverses = torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([[1.0, 0.5, 2.0]])
    expected = torch.tensor([[[8.0, 0.0, 0.0]], [[1.5, 1.0, 0.0]]])
    torch.testing.assert_close(z_scores(logits, distances, means, inverses), expected)
    for row in range(2):  # a single chunk takes a path of its own
        one = z_scores(logits[row : row + 1], distances[row : row + 1], means, inverses)
        torch.testing.assert_close(one, expected[row : row + 1])


def test_own_norms_look_at_the_context_alone() -> None:
    logits = torch.tensor([[[100.0, 1.0, 3.0, 5.0, -50.0]]])
    standard = own_norms(logits, 1, 1)
    torch.testing.assert_close(standard[0, 0, 1:4].mean(), torch.tensor(0.0))
    torch.testing.assert_close(standard[0, 0, 1:4].std(correction=0), torch.tensor(1.0))
    flat = own_norms(torch.tensor([[[0.0, 1.0, 1.0, 1.0, 1.1, 0.0]]]), 1, 1)
    assert flat.amax() < 0.3  # a head that hardly moves does not shout


def test_running_and_pooling() -> None:
    now, before = torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([[3.0, 4.0, 2.5]])
    assert running(now, before).tolist() == [[3.0, 5.0, 2.5]]
    assert running(now, None) is now
    scores = torch.tensor([[9.0, 0.0, 0.0, 7.0, 0.0, 0.0, 8.0]])
    assert pool(scores, 3, 1, 1).tolist() == [[9.0, 0.0, 7.0, 7.0, 7.0, 0.0, 8.0]]  # the affix lifts nobody


def test_a_sentence_survives_whole() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, 9.0, 1.0, 3.0, 4.0, 0.0]])
    sentences = torch.tensor([[0, 1, 2, 2, 2, 5, 5, 6]])
    ranks = by_sentence(scores, sentences, 1, 1)[0]
    assert select(ranks, 1, 1, 5).tolist() == [0, 2, 3, 4, 7]
    assert select(ranks, 1, 1, 6).tolist() == [0, 2, 3, 4, 6, 7]  # of the next one its best token
    assert ranks[0] == 0
    assert ranks[7] == 0


def test_the_papers_significance_takes_many_chunks_as_well() -> None:
    logits, positions, bias = torch.randn(3, 4, 9), torch.arange(9).expand(3, -1), torch.randn(9)
    together = significance(logits, positions, bias)
    for row in range(3):
        torch.testing.assert_close(together[row], significance(logits[row], positions[row], bias))


def test_sentences_are_told_from_tokens(mini: HomerModel) -> None:
    text = 'It weighs 3.5 kg. "Does it?" asked Dr. Who! The end\nA new line. ' + "and so on " * LONGEST
    ids = torch.tensor(mini.tokenizer(text, add_special_tokens=False).input_ids)
    numbers = Sentences(mini.tokenizer).number(ids)
    assert numbers.tolist() == sorted(numbers.tolist())
    found = [mini.tokenizer.decode(ids[numbers == n]).strip() for n in range(int(numbers.max()) + 1)]
    assert found[:6] == ["It weighs 3.5 kg.", '"Does it?"', "asked Dr.", "Who!", "The end", "A new line."]
    assert len(found) > 7  # what never ends is cut
    assert int(numbers.bincount().max()) == LONGEST


def chunk(tokens: list[int], scores: list[float] | None) -> Chunk:
    length = len(tokens)
    hidden, entry = torch.randn(1, length, 4), torch.randn(1, 1, length, 2)
    place = torch.arange(length)[None]
    given = None if scores is None else torch.tensor([scores])
    return Chunk(hidden, place, torch.tensor(tokens), Entries((entry,), (entry,)), 1, 1, scores=given)


class Pieces:
    """A tokenizer of a few tokens, as those of many languages have them."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.pieces[number] for number in ids]

    def batch_decode(self, rows: list[list[int]]) -> list[str]:
        return ["".join(self.pieces[number] for number in row) for row in rows]


@pytest.mark.parametrize("stop", [".", "?", "\u061f", "\u06d4", "\u0964", "\u1362", "\u17d4", "\u3002", "\uff01"])
def test_sentences_of_tokens_end_as_their_script_has_it(stop: str) -> None:
    pieces = Pieces([" one", stop, " two"])
    assert Sentences(pieces).number(torch.tensor([0, 1, 2, 0])).tolist() == [0, 0, 1, 1]


def test_scores_travel_with_their_tokens() -> None:
    left = chunk([0, 1, 2, 9], [1.0, 5.0, 3.0, 2.0]).keep(torch.tensor([0, 2, 3]))
    assert left.scores.tolist() == [[1.0, 3.0, 2.0]]
    both = merge(left, chunk([0, 4, 5, 9], [3.0, 7.0, 8.0, 4.0]))
    assert both.tokens.tolist() == [0, 2, 4, 5, 9]
    assert both.scores.tolist() == [[2.0, 3.0, 7.0, 8.0, 3.0]]
    assert merge(left, chunk([0, 4, 9], None)).scores is None


def observation(logits: torch.Tensor, **given: object) -> Observation:
    length = logits.shape[-1]
    place = torch.arange(length)[None]
    return Observation(
        {3: logits}, place, place, **{"scores": None, "prefix_len": 0, "suffix_len": 1, "layers": 6} | given
    )


def test_only_evidence_heads_count_once_there_are_some() -> None:
    heads = torch.zeros(6, 4)
    heads[3, 1], heads[5, 2] = 0.5, 0.9
    calibration = dataclasses.replace(norms(), heads=heads)
    logits = torch.zeros(1, 4, 5)
    logits[0, 0, 1], logits[0, 1, 2] = 9, 4  # the first is loud and no evidence head
    seen = observation(logits, calibration=calibration)
    assert Standardized().score(seen)[0].tolist() == [0, 0, 4, 0, 0]
    assert Standardized(evidence_heads=0).score(seen)[0].tolist() == [0, 9, 4, 0, 0]
    higher = Standardized(evidence_heads=0.8)
    assert higher.score(seen)[0].tolist() == [0, 0, 4, 0, 0]  # a leaf without any takes its best
    before = torch.tensor([[0.0, 0.0, 2.0, 3.0, 0.0]])
    assert higher.score(dataclasses.replace(seen, scores=before)) is before
    assert Standardized().score(dataclasses.replace(seen, scores=before))[0].tolist() == [0, 0, 4, 3, 0]
    alone = Standardized(carry=False).score(dataclasses.replace(seen, scores=before))
    assert alone[0].tolist() == [0, 0, 4, 0, 0]


def test_layers_from_a_quarter_on_are_watched() -> None:
    assert list(Standardized().observe(0, 9, 16)) == [4, 5, 6, 7, 8]
    assert list(Standardized().observe(12, 14, 16)) == [12, 13]
    assert list(Standardized().observe(0, 3, 16)) == [2]
    assert list(Standardized(first_layer=0).observe(0, 3, 16)) == [0, 1, 2]


def test_what_a_token_once_scored_it_never_loses() -> None:
    model = HomerModel(tiny_llama(), config=SMALL, calibration=norms())
    scores: dict[int, float] = {}
    levels = set()

    def watch(node: Node) -> None:
        levels.add(node.level)
        inside = node.chunk.tokens[4:-5].tolist(), node.chunk.scores[0, 4:-5].tolist()
        for token, score in zip(*inside, strict=True):
            assert score >= scores.get(token, score)
            scores[token] = score

    cache = model.compress(*random_ids(4, 300, 5), watch=watch)
    assert levels == {0, 1, 2, 3, 4}
    assert cache.kept_tokens.tolist() != HomerModel(
        model.model, config=dataclasses.replace(SMALL, significance="paper"), calibration=norms()
    ).compress(*random_ids(4, 300, 5)).kept_tokens.tolist()  # fmt: skip


def test_batches_of_leaves_change_nothing() -> None:
    model = HomerModel(tiny_llama(), config=SMALL, calibration=norms())
    parts = random_ids(4, 333, 5)
    kept = [
        model.compress(*parts, config=dataclasses.replace(SMALL, chunk_batch_size=size)).kept_tokens.tolist()
        for size in (1, 5)
    ]
    assert kept[0] == kept[1]


def test_without_a_calibration_it_works_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    standardized._warn_of_own_norms.cache_clear()
    model = HomerModel(tiny_llama(), config=SMALL)
    with caplog.at_level(logging.WARNING, "homer"):
        for _ in range(2):
            assert len(model.compress(*random_ids(4, 300, 5))) <= 32
    (warning,) = [record.message for record in caplog.records if "calibrat" in record.message]
    assert "homer calibrate" in warning


def favourites(seen: Observation) -> torch.Tensor:
    """Every tenth token first, and then the latest."""
    return (seen.tokens % 10 == 0) * 1000.0 + seen.tokens


def test_ones_own_function(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, significance=favourites)
    model = HomerModel(tiny_llama(), config=config)
    cache = model.compress(*random_ids(4, 200, 5))
    kept = cache.kept_tokens[4:-5].tolist()
    assert [token for token in kept if token % 10 == 0] == list(range(10, 201, 10))
    name = f"{__name__}:favourites"
    cache.save(tmp_path / "c.safetensors")
    loaded = CompactCache.load(tmp_path / "c.safetensors")
    assert loaded.config.significance == cache.config.significance == name
    assert model.generate(loaded, 4).token_ids == model.generate(cache, 4).token_ids
    with pytest.raises(ConfigError, match="only the name of one that a cache was made with: give the function"):
        model.compress(*random_ids(4, 200, 5), config=loaded.config)


@pytest.mark.parametrize("chosen", ["standardized", favourites])
def test_contexts_encoded_once_give_the_same(chosen: object) -> None:
    config = dataclasses.replace(SMALL, significance=chosen, suffix_budget=8)
    model = HomerModel(tiny_llama(), config=config, calibration=norms())
    prefix, context, suffix = random_ids(4, 200, 5)
    encoded = model.encode(context, prefix=prefix, suffix_budget=8)
    kept = model.compress(prefix, context, suffix).kept_tokens.tolist()
    assert model.compress_encoded(encoded, suffix).kept_tokens.tolist() == kept
    longer = torch.cat([suffix, suffix])  # beyond the budget: encoded anew, by the same significance
    assert len(model.compress_encoded(encoded, longer, reencode=True)) <= 32


class Latest(Significance):
    """The latest tokens, by rank alone."""

    def score(self, seen: Observation) -> torch.Tensor:
        return torch.zeros(seen.tokens.shape)

    def rank(self, scores: torch.Tensor, seen: Observation) -> torch.Tensor:
        return seen.tokens.float()


def test_ones_own_class() -> None:
    model = HomerModel(tiny_llama(), config=dataclasses.replace(SMALL, significance=Latest()))
    kept = model.compress(*random_ids(4, 28, 5)).kept_tokens.tolist()  # two leaves keep their latest halves
    assert kept == [*range(4), *range(7, 18), *range(21, 32), *range(32, 37)]
    assert ":" in HomerConfig(significance=Standardized(window=21)).to_dict()["significance"]


def test_auto_goes_by_what_the_calibration_knows() -> None:
    assert HomerConfig().significance == "auto"
    parts = random_ids(4, 200, 6)
    for calibration, chosen in ((norms(), "standardized"), (Calibration(norms().bias), "paper"), (None, "paper")):
        model = HomerModel(
            tiny_llama(), config=dataclasses.replace(SMALL, significance="auto"), calibration=calibration
        )
        explicit = dataclasses.replace(SMALL, significance=chosen)
        found = model.compress(*parts)
        assert found.kept_tokens.tolist() == model.compress(*parts, config=explicit).kept_tokens.tolist()
        assert found.config.significance == chosen  # the cache tells what was used


def test_bad_ones() -> None:
    with pytest.raises(
        ConfigError, match="significance='loud' is none: give 'auto', 'question', 'paper', 'standardized' or a function"
    ):
        HomerConfig(significance="loud")
    with pytest.raises(ConfigError, match="is none"):
        HomerConfig(significance=3)
    with pytest.raises(ConfigError, match="window=4 has no middle"):
        Standardized(window=4)
    with pytest.raises(ConfigError, match=r"evidence_heads=2 is out of range"):
        Standardized(evidence_heads=2)
    model = HomerModel(tiny_llama(), config=dataclasses.replace(SMALL, significance=lambda seen: seen.tokens[0]))
    with pytest.raises(ConfigError, match=r"gave \(31,\) for 31 tokens: return a tensor of shape \(1, 31\)"):
        model.compress(*random_ids(4, 44, 5))
