"""For each sentence of an answer, what of the documents it rests on."""

import pytest
import torch

from homer import Answer, Calibration, CalibrationError, Citation, Cited, HomerModel
from homer.model.citing import cite

FACT = "The door code for the northern archive is 48213."
DOCUMENTS = [
    {"title": "House", "text": "The house is old. Nobody lives there. It has three floors."},
    {"title": "Doors", "text": f"Doors are painted green. {FACT} Ask for keys in the office."},
]
QUESTION = "What is the door code for the northern archive?"


def test_an_answer_says_what_it_rests_on(small: HomerModel) -> None:
    plain = small.ask(QUESTION, DOCUMENTS * 4, max_new_tokens=12)
    answer = small.ask(QUESTION, DOCUMENTS * 4, max_new_tokens=12, cite=True)
    assert answer.text == plain.text
    assert plain.citations == ()
    assert Answer.from_dict(answer.to_dict()) == answer


def test_every_sentence_has_parts_of_documents(small: HomerModel) -> None:
    prompt = small.build_prompt(QUESTION, DOCUMENTS * 4)
    cache = small.compress_prompt(prompt)
    text = "It is 48213. Ask for keys."
    found = small.cite(prompt, cache, text)
    assert [text[one.start : one.end] for one in found] == ["It is 48213.", "Ask for keys."]
    survived = set(
        prompt.origins[cache.kept_tokens[cache.prefix_len : -cache.suffix_len] - cache.prefix_len, 0].tolist()
    )
    for one in found:
        assert 1 <= len(one.cited) <= 3
        for part in one.cited:
            document = (DOCUMENTS * 4)[part.index]
            assert part.index in survived
            assert part.title == document["title"]
            whole = document["text"][part.start : part.end]
            assert part.text == whole
            assert whole.endswith(".")
            assert whole[0].isupper()
        assert 0 < sum(part.share for part in one.cited) <= 1.0001
    assert small.cite(prompt, cache, "") == ()
    assert isinstance(found[0], Citation)
    assert isinstance(found[0].cited[0], Cited)


def test_the_sentence_that_is_looked_at_is_cited(small: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = small.build_prompt(QUESTION, DOCUMENTS)
    cache = small.compress_prompt(prompt)
    run = small.decoder.run_after
    fact = DOCUMENTS[1]["text"].index(FACT)
    number, start, end = prompt.origins.unbind(1)
    asked = ((number == 1) & (start >= fact + 1) & (end <= fact + len(FACT))).nonzero().flatten() + cache.prefix_len

    def looking(*args: object, **options: object) -> object:
        output = run(*args, **options)
        for seen in output.attention.values():
            seen.zero_()
            seen[..., asked] = 1 / len(asked)
        return output

    monkeypatch.setattr(small.decoder, "run_after", looking)
    tokenize = lambda text: __import__("homer").text.prompt.PromptBuilder(small.tokenizer).tokenize(text)[0]  # noqa: E731
    (found,) = cite(small.decoder, {1: (0,)}, prompt, cache, "48213", tokenize)
    (part,) = found.cited
    assert DOCUMENTS[1]["text"][part.start : part.end] == FACT
    assert part.share > 0.95


def test_of_parts_looked_at_alike_the_one_with_the_words_comes_first(
    small: HomerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = small.build_prompt(QUESTION, DOCUMENTS)
    cache = small.compress_prompt(prompt)
    run = small.decoder.run_after

    def looking(*args: object, **options: object) -> object:
        output = run(*args, **options)
        for seen in output.attention.values():
            seen.fill_(1 / seen.shape[-1])
        return output

    monkeypatch.setattr(small.decoder, "run_after", looking)
    for said, part in (
        ("Three floors.", "It has three floors."),
        ("A key in an office.", "Ask for keys in the office."),
    ):
        (found,) = small.cite(prompt, cache, said)
        assert found.cited[0].text == part


def test_a_model_that_was_not_measured(small: HomerModel) -> None:
    bare = HomerModel(small.model, small.tokenizer, small.config, calibration=False)
    with pytest.raises(CalibrationError, match="needs a calibration that knows the heads"):
        bare.ask(QUESTION, DOCUMENTS, max_new_tokens=2, cite=True)


def test_the_needle_is_cited(mini: HomerModel) -> None:
    shares = torch.zeros(16, 8)
    shares[10, 0] = shares[7, 6] = 1  # the heads that are measured to find what is asked for
    heads = Calibration(torch.zeros(16, 0), {"team": [[10, 0], [7, 6]]}, question_heads=shares)
    model = HomerModel(mini.model, mini.tokenizer, mini.config, calibration=heads)
    prompt = model.build_prompt(QUESTION, DOCUMENTS)
    (found,) = model.cite(prompt, model.compress_prompt(prompt), "48213")
    part = found.cited[0]
    assert DOCUMENTS[part.index]["text"][part.start : part.end] == FACT
