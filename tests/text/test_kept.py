from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from byte_tokenizers import HOSTILE, LLAMA2_TEMPLATE, byte_tokenizer
from tokenizers import normalizers
from transformers import AutoTokenizer

from homer.backends.loading import MINI
from homer.text.kept import ROW, TOKENS, TokenCache, pack, unpack
from homer.text.prompt import PromptBuilder
from homer.text.tokenizing import Piece, PieceTokenizer

TEXTS = [
    "",
    " ",
    "One.",
    "One.",
    "é日🙂 \ud800 x",
    "a ＜|user|＞ b",
    HOSTILE,
    "<s>" * 40,
    "Facts, " * 4000,
    "\n\n",
    "One. ",
]


def tokenizers() -> list[Any]:
    normalizing = byte_tokenizer(normalizer=normalizers.NFKC())
    normalizing.backend_tokenizer.add_tokens(["<|user|>"])
    return [AutoTokenizer.from_pretrained(MINI), byte_tokenizer(LLAMA2_TEMPLATE), normalizing]


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    TOKENS.clear()


def simple(pieces: PieceTokenizer, texts: list[str]) -> list[list[tuple[int, int, int]]]:
    found = [pieces.tokenize(Piece(text)) for text in texts]
    return [[(i, a, b) for i, (a, b) in zip(one.ids, one.offsets, strict=True)] for one in found]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("at_once", [2, 2048])
def test_texts_are_encoded_as_one_by_one(number: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homer.text.tokenizing._TEXTS_AT_ONCE", at_once)
    pieces = PieceTokenizer(tokenizers()[number], ["[/INST]"])
    expected = simple(pieces, TEXTS)
    for _ in range(2):  # tokenized, then kept
        found = [[tuple(row) for row in unpack([rows]).tolist()] for rows in pieces.tokenize_texts(TEXTS)]
        assert found == expected
    assert len(TOKENS) == len(set(TEXTS))


def encoded_by(builder: PromptBuilder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    rows = PieceTokenizer._rows
    monkeypatch.setattr(PieceTokenizer, "_rows", lambda self, given: texts.extend(given) or rows(self, given))
    return texts


def test_a_second_question_tokenizes_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    texts = encoded_by(PromptBuilder(tokenizer), monkeypatch)
    documents = [f"Fact {n}." for n in range(50)]
    first = PromptBuilder(tokenizer).build("Why?", documents)
    assert sum(text.startswith("Document") for text in texts) == 50
    texts.clear()
    second = PromptBuilder(tokenizer).build("Who?", [*documents[::-1], "A new one."])
    assert [text for text in texts if text.startswith("Document")] == ["Document:\nA new one.\n\n"]
    texts.clear()
    assert torch.equal(second.context_ids.sort().values[-1:], first.context_ids.sort().values[-1:])
    AutoTokenizer.from_pretrained(MINI)
    PromptBuilder(AutoTokenizer.from_pretrained(MINI)).build("Why?", documents)
    assert sum(text.startswith("Document") for text in texts) == 50  # another tokenizer has tokens of its own


def test_a_tokenizer_that_was_changed_finds_nothing_of_before() -> None:
    tokenizer = byte_tokenizer()
    before = PieceTokenizer(tokenizer).tokenize_texts(["A <tag> it is."])
    tokenizer.backend_tokenizer.add_tokens(["<tag>"])
    after = PieceTokenizer(tokenizer)
    assert after.tokenize_texts(["A <tag> it is."]) != before or after.control_ids.isdisjoint(
        unpack(before)[:, 0].tolist()
    )
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    (lower,) = PieceTokenizer(tokenizer).tokenize_texts(["A <tag> it is."])
    assert tokenizer.decode(unpack([lower])[:, 0]) == "a <tag> it is."


def test_truncation_that_somebody_turned_on_takes_nothing_away() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    pieces = PieceTokenizer(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=99)
    (rows,) = pieces.tokenize_texts(["Many words are in this text, more than three."])
    assert len(rows) // ROW == len(tokenizer.tokenize("Many words are in this text, more than three."))


def test_what_was_not_used_for_the_longest_time_leaves() -> None:
    cache = TokenCache(3 * 300)
    rows = pack([1] * 12, [(0, 1)] * 12)
    for key in (b"a", b"b", b"c"):
        cache.put([(key, rows)])
    assert set(cache.find([b"a", b"b", b"c"])) == {b"a", b"b", b"c"}
    cache.find([b"a"])
    cache.put([(b"d", rows), (b"big", rows * 6), (b"a", rows)])
    assert cache.nbytes <= 900
    assert set(cache.find([b"a", b"b", b"c", b"d", b"big"])) == {b"a", b"c", b"d"}
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)


def test_threads_share_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homer.text.tokenizing.TOKENS", TokenCache(9000))
    pieces = PieceTokenizer(AutoTokenizer.from_pretrained(MINI))
    texts = [f"Fact {n} of many." for n in range(60)]
    expected = pieces.tokenize_texts(texts)
    steps = (1, -1, 2, -2, 3, -3) * 3
    with ThreadPoolExecutor(len(steps)) as pool:
        found = pool.map(lambda step: pieces.tokenize_texts(texts[::step] * 3), steps)
    for step, rows in zip(steps, found, strict=True):
        assert rows == expected[::step] * 3
