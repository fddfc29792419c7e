"""Where sentences end, in any script, and where too long ones are cut."""

import time

import pytest

from homer.text.ends import LONGEST, cut_long, sentences


def of(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text, 0, len(text))]


@pytest.mark.parametrize(
    "parts",
    [
        ["J. Smith met Prof. Lee.", "He left at 5 p.m. on Monday (late.)", "Then!"],
        ["He left.[1]", "She stayed.²", "Nobody else did.[a][12]", "Why?"],
        ["What?!", "It grew by 3.5 points, i.e. more than in 2019. 4 men said so."],
        ["هل تعرف؟", "رمز الباب هو 48213.", "نعم!"],
        ["دروازے کا کوڈ 48213 ہے۔", "گھر پرانا ہے۔"],
        ["घर का कोड 48213 है।", "कोई नहीं रहता॥", "हाँ।"],
        ["Դուռը բաց է։", "ቤቱ አሮጌ ነው።", "တံခါး။", "ទ្វារ។", "བོད་ཡིག།"],
        ["<p>The code is 48213.</p>", "<p>It <b>rained.</b></p>", "One<br/>", "Two"],
    ],
)
def test_sentences_end_as_their_script_has_it(parts: list[str]) -> None:
    assert of(" ".join(parts)) == parts


def test_scripts_without_spaces() -> None:
    assert of("今日は雨。「明日は?」晴れ!はい。") == ["今日は雨。", "「明日は?」晴れ!", "はい。"]
    assert of("南门是11111;西门是22222!怎么办?不知道…") == ["南门是11111;西门是22222!", "怎么办?", "不知道…"]


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in cut_long(text, 0, len(text))]


def test_too_long_ones_are_cut_between_words_where_they_can_be() -> None:
    word = "x" * 600
    assert cut(f"some words {word} {word} end") == [f"some words {word}", f"{word} end"]
    assert cut(f"a few words{'y' * 30} {'z' * 995}") == ["a few words" + "y" * 30, "z" * 995], (
        "not within the last half"
    )
    clauses = "这是一个很长的句子，" * 150
    assert all(part.endswith("，") for part in cut(clauses))
    assert "".join(cut(clauses)) == clauses
    accents = cut("e\u0301" * 1000)
    assert all(part.startswith("e") for part in accents)
    assert all(part.startswith("\U0001f468") for part in cut("\U0001f468\u200d\U0001f469" * 500))


def test_a_script_without_full_stops_is_cut_at_its_clauses() -> None:
    clause = "รหัสประตูคือสี่แปดสองหนึ่งสาม"
    text = " ".join([clause] * 30)
    parts = cut(text)
    assert len(parts) > 3
    assert all(len(part) <= 200 and set(part.split()) == {clause} for part in parts)
    assert " ".join(parts) == text
    assert cut("ก" * 600) == ["ก" * 600], "no half words"
    assert [len(part) for part in cut("ก" * (LONGEST + 1))] == [LONGEST, 1]


@pytest.mark.parametrize("text", ["The code is one. " * 40_000, "." * 600_000 + "x", "Dr. " * 150_000, "?a" * 300_000])
def test_long_texts_take_time_by_their_length(text: str) -> None:
    start = time.perf_counter()
    sentences(text, 0, len(text))
    assert time.perf_counter() - start < 8, "a second at most; hours, were it by the square"
