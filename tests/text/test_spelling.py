"""What each token adds to a text: for tokenizers of bytes, of sentence pieces, and for the one that ships."""

from typing import Any

import pytest

from homer import HomerModel
from homer.text.spelling import Spelling
from tests.byte_tokenizers import byte_tokenizer, sentence_pieces

TEXT = 'ja nein {"é": 12} 日本 🎉 größe'


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), sentence_pieces()], ids=["bytes", "sentence pieces"])
def test_the_tokens_of_a_text_spell_it(tokenizer: Any) -> None:
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    spelling = Spelling(tokenizer)
    parts = [spelling.of(token) for token in ids]
    assert b"".join(parts).decode().strip() == TEXT
    assert any(part.decode(errors="replace") == "\ufffd" for part in parts)  # a part of a character


def test_the_small_model_spells_words(mini: HomerModel) -> None:
    ids = mini.tokenize(TEXT)
    parts = [Spelling(mini.tokenizer).of(token) for token in ids]
    assert b"".join(parts).decode() == TEXT
    assert len(parts) < len(TEXT.encode())


def test_control_tokens_are_named_and_what_is_no_token_is_nothing() -> None:
    tokenizer = byte_tokenizer()
    assert Spelling(tokenizer).of(tokenizer.eos_token_id) == b"</s>"
    assert Spelling(tokenizer).of(5000) == b""
    assert Spelling(None).of(3) == b""
