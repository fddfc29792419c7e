"""Arguments of the wrong kind or out of range: an error of the library, before anything is computed."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_ids
from small import save_small

from homer import (
    ConfigError,
    Document,
    GenerationError,
    HomerConfig,
    HomerError,
    HomerModel,
    InputError,
    Sampling,
    UnsupportedModelError,
    plan_merge,
)
from homer.base.arguments import as_title
from homer.text.documents import to_document
from homer_integrations.shared.documents import title_of, to_homer_document
from homer_integrations.shared.settings import HomerSettings

FACT = "The door code for the north gate is 48213. "
LONG = FACT * 60
BROKEN = "half \ud83d of a pair \udc00"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("small"), hidden=16)


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> HomerModel:
    """A model that may not run a layer."""
    model = HomerModel.from_pretrained(folder, config=HomerConfig(max_chunk_len=128, layers_warmup=2))
    for name in ("run", "extend", "run_after", "steps"):
        monkeypatch.setattr(model.decoder, name, lambda *args, **kwargs: pytest.fail("it has begun to compute"))
    return model


GENERATION: list[tuple[dict[str, Any], str]] = [
    ({"do_sample": True}, "do_sample cannot be given here"),
    ({"num_return_sequences": 2}, "num_return_sequences cannot be given here"),
    ({"max_tokens": 5}, "give max_new_tokens"),
    ({"max_length": 5}, "give max_new_tokens"),
    ({"colour": "red"}, "unknown setting 'colour'"),
    ({"return_dict_in_generate": True}, "only text and token ids"),
    ({"generation_config": 3}, "give its settings by name"),
    ({"streamer": 3}, "call stream"),
    ({"no_repeat_ngram_size": 2, "seed": 3}, "seed and stop"),
    ({"early_stopping": "perhaps", "num_beams": 2}, "transformers refuses .*early_stopping"),
    ({"stop": [2]}, "stop holds 2, which is no string"),
    ({"stop": 2}, "stop holds 2, which is no string"),
    ({"stop": b"x"}, "which is no string"),
    ({"stop": ["a", None]}, "stop holds None"),
    ({"stop": ["a", ""]}, "empty string"),
    ({"max_new_tokens": "12"}, "max_new_tokens='12' is no whole number"),
    ({"max_new_tokens": 2.5}, "no whole number"),
    ({"max_new_tokens": True}, "no whole number"),
    ({"max_new_tokens": 10**5000}, "max_new_tokens"),
    ({"max_new_tokens": 200}, "max_new_tokens=200 after position"),
    ({"seed": "x"}, "seed='x' is no whole number"),
    ({"seed": 2**70}, "seed=.* is out of range"),
    ({"num_beams": 0}, "num_beams=0 is out of range"),
    ({"num_beams": "2"}, "num_beams='2' is no whole number"),
    ({"temperature": "hot"}, "temperature='hot' is no number"),
    ({"temperature": float("nan")}, "temperature=nan is out of range"),
    ({"temperature": float("inf")}, "temperature=inf is out of range"),
    ({"temperature": 1e-40}, "temperature=1e-40 is too near 0"),
    ({"top_p": 1.5}, "top_p=1.5 is out of range: it must be between 0 and 1"),
    ({"top_p": "x"}, "top_p='x' is no number"),
    ({"top_k": 1.5}, "top_k=1.5 is no whole number"),
    ({"min_p": -1}, "min_p=-1"),
    ({"repetition_penalty": None}, "repetition_penalty=None is no number"),
    ({"repetition_penalty": 1e-40}, "repetition_penalty=1e-40 is out of range"),
]


@pytest.mark.parametrize(("options", "words"), GENERATION, ids=["-".join(options) for options, _ in GENERATION])
def test_generation_settings_are_checked_before_a_compression(
    model: HomerModel, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(GenerationError, match=words):
        model.ask("Why?", [LONG], **options)


def test_settings_that_say_nothing_are_taken_for_nothing(folder: Path) -> None:
    model = HomerModel.from_pretrained(folder)
    expected = model.ask("Why?", [FACT], max_new_tokens=4).text
    nothing: dict[str, Any] = {"num_beams": 1, "num_return_sequences": 1, "no_repeat_ngram_size": None, "stop": []}
    assert model.ask("Why?", [FACT], max_new_tokens=4, do_sample=None, **nothing).text == expected


def test_temperatures_and_penalties_at_their_ends_give_tokens(folder: Path) -> None:
    model = HomerModel.from_pretrained(folder)
    cache = model.compress_prompt(model.build_prompt("Why?", [FACT]))
    for options in ({"temperature": 1e-4}, {"temperature": 1e30}, {"repetition_penalty": 0.01}, {"top_k": 2**70}):
        assert len(model.generate(cache, 3, seed=1, **{"temperature": 1.0, **options}).token_ids) == 3


@pytest.mark.parametrize("timeout", ["x", float("nan"), 0, -1, True, float("inf")])
def test_timeouts(model: HomerModel, timeout: Any) -> None:
    with pytest.raises(GenerationError, match="timeout="):
        model.stream_prompt(model.build_prompt("Why?", [FACT])).within(timeout)


@pytest.mark.parametrize(
    "ids",
    [None, "abc", [1, None], [[1, 2], [3]], [2**70], [1, "2"], {"input_ids": [1]}, [True], [1.0], 3, object(), [[[1]]]],
    ids=lambda value: type(value).__name__,
)
def test_ids_that_are_none(model: HomerModel, ids: Any) -> None:
    for part in range(3):
        parts: list[Any] = [[1], [2] * 9, [3]]
        parts[part] = ids
        with pytest.raises(InputError, match="ids"):
            model.compress(*parts)
    with pytest.raises(InputError):
        model.encode(ids, prefix=[1])
    with pytest.raises(InputError):
        model.encode([1, 2, 3], prefix=ids)


@pytest.mark.parametrize(
    "lens", [3, "abc", [None], [4.5, 4.5], ["9"], [[9]], [9, 0], [-1, 10], [8], [True] * 9], ids=str
)
def test_document_lens_that_are_none(model: HomerModel, lens: Any) -> None:
    with pytest.raises(InputError, match="document_lens"):
        model.compress([1], [2] * 9, [3], document_lens=lens)
    with pytest.raises(InputError, match="document_lens"):
        model.plan(1, 9, 1, document_lens=lens)


NONE_OF_THESE: list[Any] = [None, 3, b"abc", 2.5, object(), True, ["a"], {"a": 1}]


def test_questions_and_documents_that_are_none(model: HomerModel) -> None:
    for wrong in NONE_OF_THESE:
        with pytest.raises(InputError, match=r"question is a \w+, not a text"):
            model.ask(wrong, [FACT])
        with pytest.raises(InputError, match="document 2"):
            model.ask("Why?", [FACT, wrong])
        with pytest.raises(InputError):
            model.tokenize(wrong)
        with pytest.raises(InputError, match="the text of document 1"):
            model.ask("Why?", [Document(wrong)])
        if wrong is not None:
            with pytest.raises(InputError, match="system is a"):
                model.ask("Why?", [FACT], system=wrong)
            with pytest.raises(ConfigError, match="config is a"):
                model.ask("Why?", [FACT], config=wrong)
        if not isinstance(wrong, list):
            with pytest.raises(InputError, match="documents is a single"):
                model.ask("Why?", wrong)
    assert len(model.build_prompt("Why?", (text for text in [FACT, FACT])).documents) == 2


@pytest.mark.parametrize("messages", [None, 3, [None], [3], [{"role": ["user"], "content": "a"}], [{3: 4}], iter([])])
def test_messages_that_are_none(model: HomerModel, messages: Any) -> None:
    with pytest.raises(InputError, match="message"):
        model.build_chat_prompt(messages)


@pytest.mark.parametrize("place", ["", 3, b"x"])
def test_places_that_are_none(model: HomerModel, place: Any) -> None:
    for documents in ([], [FACT]):
        with pytest.raises(InputError, match="place="):
            model.build_chat_prompt([{"role": "user", "content": "Hello"}], documents, place=place)


@pytest.mark.parametrize("align", [None, "words", 3, ["tokens"]])
def test_alignments_that_are_none(model: HomerModel, align: Any) -> None:
    config = HomerConfig(layers_warmup=6, max_chunk_len=128)
    with pytest.raises(ConfigError, match="align="):
        model.encode([FACT], align=align, suffix_budget=128, config=config)


@pytest.mark.parametrize("budget", [None, "x", 0, 2.5, True])
def test_budgets_that_are_none(model: HomerModel, budget: Any) -> None:
    with pytest.raises(ConfigError, match="suffix_budget="):
        model.encode([FACT], suffix_budget=budget)


@pytest.mark.parametrize("chunk", [4, 5, 6, 7, 8, 15])
def test_chunks_that_are_short_for_a_conversation(folder: Path, chunk: int) -> None:
    model = HomerModel.from_pretrained(folder)
    config = HomerConfig(max_chunk_len=chunk)
    conversations = [
        [{"role": "user", "content": LONG}],
        [
            {"role": "user", "content": "word"},
            {"role": "assistant", "content": LONG},
            {"role": "user", "content": "a b"},
        ],
        [{"role": "system", "content": " \n" * 900}, {"role": "user", "content": "a"}],
        [{"role": "system", "content": LONG}, {"role": "user", "content": "\n" + "x" * 900 + "\n"}],
    ]
    for messages in conversations:
        try:
            prompt = model.build_chat_prompt(messages, config=config)
            cache = model.compress_prompt(prompt, config=config)
        except HomerError as error:
            assert f"max_chunk_len={chunk}" in str(error)  # noqa: PT017
        else:
            assert len(cache) <= max(chunk, len(prompt.prefix_ids) + len(prompt.suffix_ids))


def test_plans_of_wrong_numbers() -> None:
    good: dict[str, Any] = {"layers": 6, "max_chunk_len": 32, "target_len": 32, "layers_warmup": 2}
    for name, value in itertools.product([*good, "suffix_budget", "max_initial_chunk_len"], ["8", 2.5, -1, True]):
        with pytest.raises(ConfigError, match=f"{name}="):
            plan_merge(4, 90, 5, **{**good, name: value})
    for lengths in itertools.permutations([4, 90, None]):
        with pytest.raises(InputError, match="_len="):
            plan_merge(*lengths, **good)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"3", b"\xff\xfe{}", b'{"max_chunk_len": "x"}', b'{"colour": 1}'], ids=str
)
def test_settings_files_that_are_damaged(folder: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "homer.json").write_bytes(content)
    with pytest.raises(ConfigError):
        HomerModel.from_pretrained(tmp_path / "model")


def damages() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    yield "model.safetensors", lambda content: content[: len(content) // 2]
    yield "model.safetensors", lambda content: b""
    yield "model.safetensors", lambda content: content[:20]
    yield "model.safetensors", lambda content: b"\xff" * 64
    yield "config.json", lambda content: content[:40]
    yield "config.json", lambda content: b"[]"
    yield "config.json", lambda content: content.replace(b'"hidden_size": 16', b'"hidden_size": "x"')
    yield "config.json", lambda content: content.replace(b'"hidden_size": 16', b'"hidden_size": 24')


@pytest.mark.parametrize(("name", "damage"), list(damages()))
def test_models_that_are_damaged(folder: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UnsupportedModelError, match="cannot load"):
        HomerModel.from_pretrained(tmp_path / "model")


def test_halves_of_surrogate_pairs_are_replaced_and_places_stay(folder: Path) -> None:
    model = HomerModel.from_pretrained(folder)
    document = {"title": BROKEN, "text": f"{BROKEN} {FACT}"}
    answer = model.ask(BROKEN, [document, BROKEN], system=BROKEN, max_new_tokens=4, stop=BROKEN)
    json.dumps(answer.to_dict(), ensure_ascii=False).encode()
    answer._repr_html_().encode()
    by_index = sorted(answer.sources, key=lambda source: source.index)
    assert by_index[0].title == "half \ufffd of a pair \ufffd"
    assert "".join(passage.text for passage in by_index[0].passages) == f"{by_index[0].title} {FACT}"
    chat = [{"role": role, "content": BROKEN} for role in ("system", "user", "assistant", "user")]
    assert "\ufffd" in model.tokenizer.decode(model.build_chat_prompt(chat).prefix_ids)
    assert len(model.tokenize(BROKEN)) > 4


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ("A", "A"), (Path("/data/notes.md"), "notes.md"), (float("nan"), None), (None, None), ("", None), ("  ", None),
        (7, "7"), (2.5, "2.5"), (float("inf"), None), (BROKEN, "half \ufffd of a pair \ufffd"), (object(), None),
    ],
)  # fmt: skip
def test_titles(given: Any, title: str | None) -> None:
    assert as_title(given) == title
    assert to_document({"text": "a", "title": given}).title == title
    json.dumps(to_document(Document("a", given)).title, allow_nan=False)


@pytest.mark.parametrize("given", [["A"], {"A": 1}, ("A",)])
def test_titles_that_are_several(given: Any) -> None:
    with pytest.raises(InputError, match="the title of document 1"):
        to_document({"text": "a", "title": given})


def test_numbers_of_other_libraries_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    sampling = Sampling(max_new_tokens=numpy.int64(4), temperature=numpy.float32(0.5), top_k=numpy.int32(3))
    assert len(sampling.processors()) == 2


def test_ids_of_numpy(folder: Path) -> None:
    model = HomerModel.from_pretrained(folder)
    parts = random_ids(3, 20, 4, vocabulary=200)
    expected = model.compress(*parts)
    assert torch.equal(model.compress(*(part.numpy() for part in parts)).logits, expected.logits)
    encoded = model.encode(parts[1].numpy(), prefix=parts[0].tolist())
    assert torch.equal(encoded.context_ids, parts[1])


def test_a_title_that_names_nothing_leaves_the_next_best_name() -> None:
    metadata = {"title": float("nan"), "source": Path("/data/notes.md"), "file_name": "other.md"}
    assert title_of(metadata) == "notes.md"
    assert title_of({"title": "  ", "source": None, "file_name": "other.md"}) == "other.md"
    assert title_of({"title": float("nan")}) is None
    assert to_homer_document({"text": "a", "title": float("nan"), "metadata": metadata}, 1).title == "notes.md"


def test_no_tools_are_no_tools(folder: Path) -> None:
    settings = HomerSettings(model=str(folder))
    for nothing in ({"tools": []}, {"functions": None}, {"tools": None, "tool_choice": None}, {"colour": None}):
        assert settings.call(None, {**nothing, "seed": 3}).generation == {"seed": 3}
    with pytest.raises(GenerationError, match="unknown argument 'tools'"):
        settings.call(None, {"tools": [{"name": "search"}]})
