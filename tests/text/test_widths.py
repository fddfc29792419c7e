"""Where tokens lie, told from their widths, is where the tokenizer says; and a long text in pieces is the whole."""

import random
from typing import Any

import pytest
from byte_tokenizers import byte_tokenizer, sentence_pieces
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from homer.backends.loading import MINI
from homer.text import widths
from homer.text.kept import pack, unpack
from homer.text.tokenizing import Piece, PieceTokenizer
from homer.text.widths import Widths

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BITS = [
    "a", "b", " ", "  ", "\n", "\n\n", "The", " word", "'s", "'", "9", "123", ".", ",", "!?", "é", "日", "🙂", "\u0301",
    "\t", "\r\n", "\u2028", "\u00a0", "-", "_", "ABC", "x" * 40, "\u200d", " The", ". And",
]  # fmt: skip


def splitting(*patterns: str) -> Any:
    """The shipped tokenizer with other words."""
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*parts, bytewise])
    return tokenizer


def trailing() -> Any:
    """A tokenizer whose words end with the space behind them, not with the one before: ". " may be one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, ".\u0120"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(".", "\u0120")]))
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.Split(Regex(r"\S+ |\S+|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytewise])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = {
    "shipped": lambda: AutoTokenizer.from_pretrained(MINI),
    "GPT-4": lambda: splitting(GPT4),
    "bytes": byte_tokenizer,
    "composing": lambda: byte_tokenizer(normalizer=normalizers.NFC()),
    "composing nothing": lambda: byte_tokenizer(normalizer=normalizers.Sequence([])),
}


def made(tokenizer: Any) -> Widths:
    found = Widths.of(tokenizer, frozenset(tokenizer.all_special_ids))
    assert found is not None
    return found


def told(tokenizer: Any, texts: list[str]) -> list[bytes]:
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return [pack(one.ids, one.offsets) for one in encodings]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("most", [30, 900])
def test_places_are_those_that_the_tokenizer_tells(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widths, "_PIECE", 100)
    tokenizer, draw = TOKENIZERS[name](), random.Random(most)
    known, cut = made(tokenizer), 0
    for _ in range(30):
        texts = ["".join(draw.choices(BITS, k=draw.randrange(1, most))) for _ in range(5)]
        plain = [text.replace("\u0301", "") for text in texts]  # what composing changes is for another way
        cut += sum(len(known._pieces(text)) > 1 for text in plain)
        assert known.rows(plain) == told(tokenizer, plain)
        for ours, theirs in zip(known.rows(texts), told(tokenizer, texts), strict=True):
            assert ours == theirs or (ours is None and name == "composing")
    assert (cut > 0) == (most > 200)


def test_a_long_text_is_cut_for_all_cores_and_only_where_words_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "One fact. The other one. " * 4000
    pieces = made(TOKENIZERS["shipped"]())._pieces(text)
    assert "".join(pieces) == text
    assert len(pieces) == 6
    assert max(map(len, pieces)) < 2 << 14
    text = "fact. The " * 10_000
    joining = trailing()
    pieces = made(joining)._pieces(text)
    assert "".join(pieces) == text
    assert all(piece.startswith(" fact") for piece in pieces[1:])  # where ". The" would be cut, tokens are others
    assert made(joining).rows([text]) == told(joining, [text])


def test_a_text_without_a_border_is_one_piece() -> None:
    tokenizer = byte_tokenizer()
    for text in ("x" * 200_000, "日" * 100_000, "\n" * 100_000):
        assert made(tokenizer)._pieces(text) == [text]
        assert made(tokenizer).rows([text]) == told(tokenizer, [text])


@pytest.mark.parametrize(
    "tokenizer",
    [
        sentence_pieces(),
        byte_tokenizer(normalizer=normalizers.NFKC()),
        splitting(),  # all of a text is one word, whose tokens depend on all of it
    ],
)
def test_tokenizers_of_other_kinds_are_left_alone(tokenizer: Any) -> None:
    assert Widths.of(tokenizer, frozenset()) is None


def test_a_tokenizer_that_puts_a_space_first_is_left_alone() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert Widths.of(tokenizer, frozenset()) is None


def test_control_tokens_are_for_another_way() -> None:
    tokenizer = byte_tokenizer()
    first, second, third = made(tokenizer).rows(["a", "b</s>", "c"])
    assert second is None
    assert [first, third] == told(tokenizer, ["a", "c"])


def test_a_token_that_was_added_later_is_known() -> None:
    tokenizer = byte_tokenizer()
    before = made(tokenizer)
    assert made(tokenizer) is before
    tokenizer.add_tokens(["<é日>"])
    assert made(tokenizer) is not before
    texts = ["a <é日> b é", "日<é日>"]
    assert made(tokenizer).rows(texts) == told(tokenizer, texts)


def test_what_composing_changes_is_encoded_as_ever() -> None:
    tokenizer = PieceTokenizer(byte_tokenizer(normalizer=normalizers.NFC()))
    texts = ["plain", "e\u0301 x", "日"]
    rows = [[tuple(row) for row in unpack([packed]).tolist()] for packed in tokenizer.tokenize_texts(texts)]
    each = [tokenizer.tokenize(Piece(text)) for text in texts]
    assert rows == [[(i, a, b) for i, (a, b) in zip(one.ids, one.offsets, strict=True)] for one in each]
