"""A context encoded once answers as one compressed from scratch."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import SUPPORTED, build
from conftest import random_ids, tiny_llama

from homer import CacheError, CompactCache, ConfigError, Document, HomerConfig, HomerModel, InputError
from homer.reuse.encode import Context
from homer.reuse.finding import Where

CONFIG = HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2)


def same(model: HomerModel, found: CompactCache, expected: CompactCache) -> None:
    assert found.kept_tokens.tolist() == expected.kept_tokens.tolist()
    assert found.position_ids.tolist() == expected.position_ids.tolist()
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert found.survived.tolist() == expected.survived.tolist()
    assert found.plan == expected.plan
    torch.testing.assert_close(found.logits, expected.logits, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(found.relevance, expected.relevance, atol=1e-4, rtol=1e-3)
    for a, b in zip((*found.keys, *found.values), (*expected.keys, *expected.values), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)
    assert model.generate(found, 6).token_ids == model.generate(expected, 6).token_ids


def compare(model: HomerModel, lengths: tuple[int, int, int], budget: int, **changes: Any) -> None:
    prefix, context, suffix = random_ids(*lengths, seed=sum(lengths), vocabulary=model.decoder.vocabulary)
    settings = CONFIG.to_dict() | changes | {"suffix_budget": budget}
    expected = model.compress(prefix, context, suffix, config=HomerConfig(**settings))
    encoded = model.encode(context, prefix=prefix, suffix_budget=budget, config=HomerConfig(**settings))
    same(model, model.compress_encoded(encoded, suffix), expected)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("lengths", [(4, 300, 6), (4, 20, 6)])
def test_keys_and_values_are_gathered_at_the_end_or_leaf_by_leaf(fast: bool, lengths: tuple[int, int, int]) -> None:
    model = HomerModel(tiny_llama(), config=CONFIG, fast=fast)
    prefix, context, suffix = random_ids(*lengths)
    encoded = model.encode(context, prefix=prefix, suffix_budget=6)
    late = model.compress_encoded(encoded, suffix)
    same(model, model.compress_encoded(encoded, suffix, gather_at_once=True), late)


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_architecture(name: str) -> None:
    compare(HomerModel(build(*SUPPORTED[name]), config=CONFIG), (4, 150, 6), 8)


@pytest.mark.parametrize("name", ["llama-2", "llama-3.1", "qwen3"])
def test_the_fast_path(name: str) -> None:
    model = HomerModel(build(*SUPPORTED[name]), config=CONFIG, fast=True)
    compare(model, (4, 150, 6), 8)
    prefix, context, suffix = random_ids(4, 150, 6, vocabulary=199)
    parts = Context(prefix, context, (Document("a"), Document("b")), torch.tensor([[n > 99, 0, 0] for n in range(150)]))
    encoded = model._encode(parts, 8, "documents", CONFIG, Where())
    expected = HomerModel(model.model, config=encoded.config, fast=False)
    same(
        expected,
        model.compress_encoded(encoded, suffix),
        expected.compress(prefix, context, suffix, document_lens=[100, 50]),
    )


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize(
    ("lengths", "budget"),
    [((4, 20, 6), 6), ((0, 50, 5), 9), ((4, 333, 1), 5), ((7, 1000, 9), 9), ((3, 90, 3), 12), ((1, 2, 4), 4)],
)
def test_any_lengths(tiny: HomerModel, lengths: tuple[int, int, int], budget: int, refresh: bool) -> None:
    compare(tiny, lengths, budget, refresh_suffix=refresh)


def test_another_significance_and_a_calibration(tiny: HomerModel) -> None:
    compare(tiny, (4, 200, 6), 8, significance="standardized")
    bias = torch.rand(6, 40, generator=torch.Generator().manual_seed(0)) * 5
    compare(HomerModel(tiny.model, config=CONFIG, calibration=bias), (4, 200, 6), 8)


DOCUMENTS = [
    {"title": "gate.md", "text": "The north gate closes at dusk. " * 40},
    {"title": "archive.md", "text": "The door code for the northern archive is 48213."},
    {"title": "barn.md", "text": "The barn was painted red in spring. " * 90},
]
QUESTION = "What is the door code for the northern archive?"
SMALL = HomerConfig(max_chunk_len=256, target_len=256, layers_warmup=6)


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("lens", [[20], [3, 3], [40, 1, 9], [5] * 11, [7, 120, 2, 33, 18, 60, 1]])
def test_leaves_that_end_with_documents(tiny: HomerModel, lens: list[int], refresh: bool) -> None:
    prefix, context, suffix = random_ids(3, sum(lens), 5)
    config = HomerConfig(**CONFIG.to_dict() | {"suffix_budget": 6, "refresh_suffix": refresh})
    expected = tiny.compress(prefix, context, suffix, document_lens=lens, config=config)
    origins = torch.tensor([[n, 0, 0] for n, length in enumerate(lens) for _ in range(length)])
    parts = Context(prefix, context, tuple(Document("a") for _ in lens), origins)
    encoded = tiny._encode(parts, 6, "documents", config, Where())
    assert encoded.document_lens == tuple(lens)
    same(tiny, tiny.compress_encoded(encoded, suffix), expected)


@pytest.mark.parametrize("align", ["tokens", "documents"])
def test_ask_is_the_same_from_documents_and_from_what_was_encoded(mini: HomerModel, align: str) -> None:
    encoded = mini.encode(DOCUMENTS, align=align, config=SMALL, suffix_budget=40)
    answer = mini.ask(QUESTION, encoded, max_new_tokens=8)
    assert answer.text == "48213"
    assert answer.usage.cached_tokens == len(encoded)
    assert {source.title for source in answer.sources} == {document["title"] for document in DOCUMENTS}
    assert [document.title for document in answer.trace.documents] == [document["title"] for document in DOCUMENTS]
    prompt = mini.build_prompt(QUESTION, DOCUMENTS)
    config = HomerConfig(**SMALL.to_dict() | {"suffix_budget": 40})
    parts = prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids
    expected = mini.compress(*parts, config=config, document_lens=encoded.document_lens)
    assert len(expected.plan.spans) > 2
    same(mini, mini.compress_encoded(encoded, prompt.suffix_ids), expected)
    if align == "tokens":
        whole = mini.encode(DOCUMENTS[:2])  # fits the window: one leaf of all layers, as the plain model has it
        assert whole.prefix.layers == mini.decoder.layers
        found = mini.compress_prompt(mini.build_prompt(QUESTION, whole), encoded=whole)
        budget = HomerConfig(suffix_budget=64)
        same(mini, found, mini.compress_prompt(mini.build_prompt(QUESTION, DOCUMENTS[:2]), config=budget))
        assert len(mini.encode(whole, suffix_budget=80).leaves) == 1  # still one, with more room


def test_a_stream_and_several_threads(mini: HomerModel) -> None:
    encoded = mini.encode(DOCUMENTS, config=SMALL).to_pinned_memory()
    questions = [QUESTION, "What colour was the barn painted?", "When does the north gate close?"]
    expected = [mini.ask(question, encoded, max_new_tokens=8).text for question in questions]
    with ThreadPoolExecutor(3) as pool:
        streams = [
            mini.stream_prompt(mini.build_prompt(q, encoded), encoded=encoded, max_new_tokens=8) for q in questions
        ]
        assert list(pool.map(lambda stream: "".join(stream), streams)) == expected
    assert expected[0] == "48213"


def test_a_suffix_beyond_the_budget(tiny: HomerModel) -> None:
    prefix, context, suffix = random_ids(4, 200, 9)
    encoded = tiny.encode(context, prefix=prefix, suffix_budget=6)
    with pytest.raises(InputError, match="the suffix holds 9 tokens.*suffix_budget=6: encode it with suffix_budget=9"):
        tiny.compress_encoded(encoded, suffix)
    again = tiny.compress_encoded(encoded, suffix, reencode=True)
    same(tiny, again, tiny.compress(prefix, context, suffix))
    assert again.cached_tokens == 0
    longer = tiny.encode(encoded, suffix_budget=12)
    assert longer.suffix_budget == 12
    assert tiny.compress_encoded(longer, suffix).cached_tokens == 204


def test_bad_input(tiny: HomerModel, mini: HomerModel) -> None:
    prefix, context, suffix = random_ids(4, 200, 9)
    encoded = tiny.encode(context, prefix=prefix, suffix_budget=9)
    for error, words, call in (
        (ConfigError, "suffix_budget=0", lambda: tiny.encode(context, prefix=prefix, suffix_budget=0)),
        (
            InputError,
            "prefix and suffix_budget take 34 of max_chunk_len=32",
            lambda: tiny.encode(context, prefix=prefix, suffix_budget=30),
        ),
        (ConfigError, "align='pages' is unknown", lambda: tiny.encode(context, prefix=prefix, align="pages")),
        (ConfigError, "needs documents", lambda: tiny.encode(context, prefix=prefix, align="documents")),
        (InputError, "needs prefix=", lambda: tiny.encode(context)),
        (InputError, "0 documents", lambda: mini.encode([])),
        (InputError, "prefix is for token ids", lambda: mini.encode(["a"], prefix=prefix)),
        (InputError, "from token ids: give compress", lambda: tiny.ask("Why?", encoded)),
        (InputError, "system was settled", lambda: mini.ask("Why?", mini.encode(["A."]), system="Be brief.")),
        (InputError, "config was settled", lambda: mini.ask("Why?", mini.encode(["A."]), config=SMALL)),
        (CacheError, "was encoded by", lambda: mini.compress_encoded(encoded, suffix)),
    ):
        with pytest.raises(error, match=words):
            call()


def test_a_rope_that_changes_with_length_is_refused() -> None:
    model = tiny_llama()
    model.config.rope_parameters = dict(model.config.rope_parameters) | {
        "rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 16,
    }  # fmt: skip
    homer = HomerModel(model, config=CONFIG)
    prefix, context = random_ids(4, 200)
    with pytest.raises(ConfigError, match="of 22 tokens pass 16, where this model's dynamic RoPE changes"):
        homer.encode(context, prefix=prefix, suffix_budget=5)


def test_a_saved_cache_knows_its_documents(tiny: HomerModel, tmp_path: Path) -> None:
    prefix, context, suffix = random_ids(4, 100, 5)
    cache = tiny.compress(prefix, context, suffix, document_lens=[60, 40])
    cache.save(tmp_path / "cache.safetensors")
    assert CompactCache.load(tmp_path / "cache.safetensors").plan == cache.plan
    assert cache.plan.spans[-1] == (80, 100)
