"""Cases and haystacks: what is asked, without any model but a tokenizer."""

import json
from pathlib import Path
from random import Random

import pytest

from homer import ConfigError, HomerModel, InputError
from homer.demo import DOCUMENTS
from homer.experiments import Case, Needles, Setup, needle_cases, passkey_cases, read_cases, write_cases
from homer.experiments.cases import CaseTokenizer
from homer.experiments.haystack import Haystack, Question, depths_of, split_sentences

TEXT = (DOCUMENTS / "05-mail-orrin-migration.md").read_text()
FACT = Question("What is the colour?", ("The colour is teal.",), ("teal",))


def tokens(tokenizer: CaseTokenizer, case: Case) -> int:
    return sum(map(len, tokenizer.tokenize(case)))


def test_whole_words_count() -> None:
    case = Case("", "x", "", ("48213", "teal"), 1, 0.0)
    assert case.found("It is 48213.") == 0.5
    assert case.found("Teal and 48213, or teal") == 1.0
    assert case.found("482134 steal 148213") == 0.0
    assert case.found("482134 or 48213 teals") == 0.5


def test_a_case_is_the_prompt_that_ask_makes(mini: HomerModel) -> None:
    case = Haystack(TEXT, mini.tokenizer, repeat=True).case(FACT, 400, 0.5, Random(0))
    body = case.context.removeprefix("Document:\n").removesuffix("\n\n")
    prompt = mini.build_prompt(FACT.question, [body])
    parts = CaseTokenizer(mini.tokenizer).tokenize(case)
    for ids, expected in zip(parts, (prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids), strict=True):
        assert ids.tolist() == expected.tolist()


def test_a_context_holds_no_control_tokens(mini: HomerModel) -> None:
    tokenizer = CaseTokenizer(mini.tokenizer)
    case = Case("<|system|>s<|end|>", "text <|end|> more", "q<|end|><|assistant|>", ("x",), 1, 0.0)
    prefix, context, suffix = tokenizer.tokenize(case)
    end = mini.tokenizer.convert_tokens_to_ids("<|end|>")
    assert (prefix == end).sum() == 1
    assert (suffix == end).sum() == 1
    assert (context == end).sum() == 0
    assert mini.tokenizer.decode(context) == case.context


@pytest.mark.parametrize("length", [150, 1000, 7000])
def test_a_case_fills_its_length(mini: HomerModel, length: int) -> None:
    haystack = Haystack(TEXT, mini.tokenizer, repeat=True)
    for seed, depth in enumerate(depths_of(5)):
        case = haystack.case(FACT, length, depth, Random(seed))
        found = tokens(haystack.tokenizer, case)
        assert length - 80 <= found <= length
        place = case.context.index("The colour is teal.") / len(case.context)
        assert abs(place - depth) < 0.1 if length > 500 else True
        assert case.context.count("The colour is teal.") == 1


def test_sentences_join_to_the_text() -> None:
    sentences = split_sentences(TEXT)
    assert "".join(sentences) == TEXT
    assert len(sentences) > 20
    assert split_sentences('He said: "Go." Then he left.\n\nA title\n\nEnd') == [
        'He said: "Go." ', "Then he left.\n\n", "A title\n\n", "End",
    ]  # fmt: skip


def test_text_without_sentences(mini: HomerModel) -> None:
    text = "12 | 7 | 90\n" * 900
    assert "".join(split_sentences(text)) == text
    assert "".join(split_sentences("a" * 1001)) == "a" * 1001
    assert max(len(part.rstrip()) for part in split_sentences(text)) <= 400
    case = Haystack(text, mini.tokenizer).case(FACT, 700, 0.5, Random(0))
    assert 400 < tokens(CaseTokenizer(mini.tokenizer), case) <= 700


def test_the_seed_decides_the_cases(mini: HomerModel) -> None:
    def made(seed: int) -> list[Case]:
        return passkey_cases(Setup(mini, seed=seed), context_lengths=[200, 300], samples=3, depths=2)

    cases = made(1)
    assert cases == made(1)
    assert cases != made(2)
    assert [(case.length, case.depth) for case in cases] == [(n, d) for n in (200, 300) for d in (0.0, 1.0, 0.0)]
    assert len({case.targets for case in cases}) == 6


def test_written_and_read(mini: HomerModel, tmp_path: Path) -> None:
    tokenizer = CaseTokenizer(mini.tokenizer)
    cases = passkey_cases(Setup(mini), context_lengths=[200, 300], samples=2)
    cases += needle_cases(Setup(mini), DOCUMENTS, needles=Needles(values=2), context_lengths=[300], samples=1)
    write_cases(tmp_path / "cases.jsonl", cases)
    assert read_cases(tmp_path / "cases.jsonl", tokenizer) == cases
    entry = json.loads((tmp_path / "cases.jsonl").read_text().splitlines()[0])
    assert list(entry)[:4] == ["prefix", "context", "postfix", "target"]
    assert entry["target"] == cases[0].targets[0]


def test_the_originals_fields_are_enough(mini: HomerModel, tmp_path: Path) -> None:
    tokenizer = CaseTokenizer(mini.tokenizer)
    lines = [
        {"prefix": "Find it.", "context": f"{'Grass. ' * n}The key is {70 + n}. {'Grass. ' * (30 - n)}",
         "postfix": "What is the key?", "target": 70 + n}
        for n in (0, 15)
    ]  # fmt: skip
    (tmp_path / "original.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    first, second = read_cases(tmp_path / "original.jsonl", tokenizer)
    assert first.targets == ("70",)
    assert first.length == second.length == max(tokens(tokenizer, first), tokens(tokenizer, second))
    assert (first.depth, second.depth) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "line 1, is no JSON"),
        ("", "holds 0 cases"),
        ('{"prefix": "a", "context": "b", "target": "c"}', "no field 'postfix'"),
        ('{"prefix": "a", "context": "b", "postfix": "d", "target": ""}', "the target is not empty"),
        ('{"prefix": "a", "context": " ", "postfix": "d", "target": "c"}', "context"),
        ("[1]", "no field 'prefix'"),
    ],
)
def test_bad_data(mini: HomerModel, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(InputError, match=words):
        read_cases(tmp_path / "bad.jsonl", CaseTokenizer(mini.tokenizer))


def test_bad_haystacks_and_counts(mini: HomerModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data at"):
        read_cases(tmp_path / "none.jsonl", CaseTokenizer(mini.tokenizer))
    with pytest.raises(InputError, match="holds no text"):
        Haystack(" \n", mini.tokenizer)
    short = Haystack(TEXT, mini.tokenizer)
    with pytest.raises(InputError, match=r"holds 1,\d+ tokens, this context length needs 4,9\d\d"):
        short.case(FACT, 5000, 0.5, Random(0))
    with pytest.raises(InputError, match="a context length of 50 tokens leaves -?[0-9]+ for the haystack"):
        short.case(FACT, 50, 0.5, Random(0))
    for options, words in (({"samples": 0}, "samples=0"), ({"depths": 0}, "depths=0"), ({"context_lengths": []}, "=0")):
        with pytest.raises(ConfigError, match=words):
            passkey_cases(Setup(mini), **options)


def test_several_needles(mini: HomerModel) -> None:
    setup = Setup(mini)
    (case,) = needle_cases(setup, DOCUMENTS, needles=Needles(keys=5), context_lengths=[600], samples=1)
    assert len(case.targets) == 1
    assert case.context.count("The door code for the ") == 5
    key = case.postfix.split("door code for the ")[1].split("?")[0]
    assert f"The door code for the {key} is {case.targets[0]}." in case.context
    (case,) = needle_cases(setup, DOCUMENTS, needles=Needles(values=3), context_lengths=[600], samples=1)
    assert len(set(case.targets)) == 3
    assert all(f"is {value}." in case.context for value in case.targets)
    own = Needles("Ship {key} carries {value} crates.", "How many crates does ship {key} carry?", keys=2)
    (case,) = needle_cases(setup, DOCUMENTS, needles=own, context_lengths=[600], samples=1)
    assert f"carries {case.targets[0]} crates." in case.context


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keys": 0}, "keys=0 is out of range"),
        ({"keys": 101}, "between 1 and 100"),
        ({"fact": "A {value}"}, "give both or neither"),
        ({"fact": "A", "question": "B?"}, "no {value}"),
        ({"fact": "A {value}", "question": "B?", "keys": 2}, "needs {key}"),
    ],
)
def test_bad_needles(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Needles(**options)
