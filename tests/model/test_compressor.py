"""Documents shortened to what a question asks for: budgets, whole parts, places, and what it costs."""

import concurrent.futures
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from homer import CalibrationError, Compressed, Compressor, HomerModel, InputError, Question
from homer.demo import DOCUMENTS
from homer.merging.looking import look_at
from homer.model.parts import Parts
from homer.plan.windows import windows
from homer.significance.evidence import QuestionLook, stretches
from homer.text.files import read_documents

QUESTION = "What is the door code for the north gate?"
FACT = "The door code for the north gate is 48213."
TABLE = "| gate | code |\n|---|---|\n| north | 48213 |\n| south | 11111 |\n| west | 22222 |"
TEXTS = [
    {
        "title": "House",
        "text": f"The house is old. It has three floors.\n\nNobody lives there. {FACT} Ask Ann for keys.",
    },
    {"title": "Codes", "text": f"All codes of this year.\n\n{TABLE}\n\nThey change in May."},
    {"text": "```\nopen(48213)\nclose()\n```\n\n- first buy oil\n- then paint the fence\n\nIt was fine. It rained."},
]


def check(result: Compressed, texts: list[Any] = TEXTS, marker: str = "[...]") -> None:
    assert list(result.indices) == sorted(result.indices)
    assert len(result.documents) == len(result.spans) == len(result.indices)
    for document, index, spans in zip(result.documents, result.indices, result.spans, strict=True):
        text = texts[index]["text"]
        assert document.title == texts[index].get("title")
        place = 0
        for start, end in spans:
            place = document.text.index(text[start:end], place) + end - start
        left = document.text
        for start, end in spans:
            left = left.replace(text[start:end], "", 1)
        assert not left.replace(marker, "").strip(" \n|")


def test_votes_are_those_of_one_plain_run(small: HomerModel) -> None:
    prompt = small.build_prompt(QUESTION, ["Little to see here."])
    first, end = prompt.question_span
    look = QuestionLook({1: (0,), 3: (1,)}, len(prompt.suffix_ids) - end, stretches(end - first))
    parts = prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids
    found = look_at(small.decoder, parts, look, windows(len(prompt.context_ids), 200, [0]))
    ids = torch.cat(parts)[None]
    seen = small.decoder.run(0, 6, ids, torch.arange(ids.shape[1])[None], question=look).attention
    inside = slice(len(prompt.prefix_ids), len(prompt.prefix_ids) + len(prompt.context_ids))
    torch.testing.assert_close(found, torch.cat([seen[1], seen[3]], 1)[0, ..., inside])


def test_batches_see_what_single_leaves_see_and_end_below_the_last_head(
    small: HomerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[int, int, int]] = []
    run = small.decoder.run

    def counting(first: int, end: int, inputs: torch.Tensor, *args: Any, **options: Any) -> Any:
        runs.append((first, end, len(inputs)))
        return run(first, end, inputs, *args, **options)

    monkeypatch.setattr(small.decoder, "run", counting)
    one = Compressor(small).score(QUESTION, TEXTS * 4)
    single, runs = runs, []
    config = dataclasses.replace(small.config, chunk_batch_size=3)
    many = Compressor(small, config=config).score(QUESTION, TEXTS * 4)
    assert {run[:2] for run in single + runs} == {(0, 4)}
    assert len(single) > 3 > max(len(runs) - len(single) // 3, 0)
    assert max(rows for *_, rows in runs) == 3
    assert one == pytest.approx(many, rel=1e-4)
    assert sum(one) == pytest.approx(1)


@pytest.mark.parametrize("keep", ["sentences", "passages", "documents"])
@pytest.mark.parametrize("room", [1, 12, 30, 60, 100, 10_000])
def test_a_budget_holds_and_parts_are_whole(small: HomerModel, keep: str, room: int) -> None:
    result = Compressor(small).compress(QUESTION, TEXTS, max_tokens=room, keep=keep)
    check(result)
    handed_out = sum(len(small.tokenize(document.text)) for document in result.documents)
    assert result.usage.kept_tokens == handed_out <= room
    for document in result.documents:
        if "```" in document.text:
            assert "```\nopen(48213)\nclose()\n```" in document.text
        if "| west" in document.text or "| south" in document.text:
            assert "| gate | code |\n|---|---|" in document.text
    if room == 10_000:
        assert [document.text for document in result.documents] == [text["text"] for text in TEXTS]


def test_shares_and_numbers_of_parts(small: HomerModel) -> None:
    compressor = Compressor(small)
    third = compressor.compress(QUESTION, TEXTS, max_share=1 / 3)
    assert third.usage.kept_tokens <= third.usage.input_tokens / 3
    for keep, count in (("sentences", 3), ("passages", 2), ("documents", 1)):
        result = compressor.compress(QUESTION, TEXTS, top_k=count, keep=keep)
        check(result)
        assert result.documents
    assert result.indices == result.ranking[:1]
    assert result.documents[0].text == TEXTS[result.indices[0]]["text"]


def test_markers(small: HomerModel) -> None:
    for marker in ("", "<cut>"):
        result = Compressor(small, marker=marker).compress(QUESTION, TEXTS, top_k=2)
        check(result, marker=marker)
        assert any("<cut>" in document.text for document in result.documents) == bool(marker)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "0 budgets are given: give exactly 1 of max_tokens, max_share and top_k"),
        ({"max_tokens": 5, "top_k": 2}, r"2 budgets are given \(max_tokens=5, top_k=2\)"),
        ({"max_tokens": 0}, "max_tokens=0 is out of range: it must be at least 1"),
        ({"top_k": 1.5}, "top_k=1.5 is no whole number"),
        ({"max_share": 1.5}, "max_share=1.5 is out of range"),
        ({"max_share": 0}, "max_share=0 leaves nothing"),
        ({"top_k": 1, "keep": "words"}, "keep='words' is none: give 'sentences', 'passages', 'documents'"),
    ],
)
def test_what_is_refused(small: HomerModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Compressor(small).compress(QUESTION, TEXTS, **options)


def test_other_things_refused(small: HomerModel) -> None:
    compressor = Compressor(small)
    with pytest.raises(InputError, match="the question is empty"):
        compressor.compress(" ", TEXTS, top_k=1)
    with pytest.raises(InputError, match="0 documents"):
        compressor.compress("?", [], top_k=1)
    with pytest.raises(InputError, match="model is a str: give a HomerModel"):
        Compressor("mini")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="of max_chunk_len=240 tokens, which leaves no room"):
        compressor.compress("why " * 300, TEXTS, top_k=1)
    unmeasured = HomerModel(small.model, small.tokenizer, calibration=False)
    with pytest.raises(CalibrationError, match="needs a calibration that knows the heads"):
        Compressor(unmeasured).compress(QUESTION, TEXTS, top_k=1)


def test_blank_and_many_documents(small: HomerModel, caplog: pytest.LogCaptureFixture) -> None:
    texts = [{"text": f"Line {number}."} if number % 3 else {"text": " \n"} for number in range(60)]
    result = Compressor(small).compress(QUESTION, texts, top_k=7)
    check(result, texts)
    assert len(result.documents) == 7
    assert len(result.scores) == 60
    assert not any(result.scores[::3])
    assert "20 of 60 documents hold no text" in caplog.text


def test_a_room_for_nothing_is_said(small: HomerModel, caplog: pytest.LogCaptureFixture) -> None:
    result = Compressor(small).compress(QUESTION, TEXTS, max_tokens=1)
    assert result.documents == ()
    assert result.text == ""
    assert "not one part fits" in caplog.text


def test_threads_and_progress(small: HomerModel, capfd: pytest.CaptureFixture[str]) -> None:
    compressor = Compressor(small)
    alone = compressor.compress(QUESTION, TEXTS, max_tokens=60)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        others = pool.map(lambda _: compressor.compress(QUESTION, TEXTS, max_tokens=60), range(8))
    assert all(other == alone for other in others)
    compressor.compress(QUESTION, TEXTS, top_k=1, progress=True)
    assert "looking" in capfd.readouterr().err


def test_long_passages_are_parted(small: HomerModel) -> None:
    prompt = small.build_prompt(QUESTION, ["It is as it is, and so it stays. " * 60])
    parts = Parts.of(prompt, torch.ones(1, len(prompt.context_ids)))
    assert int(parts.passages.max()) >= 2
    assert int(parts.tokens.sum()) == int((prompt.origins[:, 2] > prompt.origins[:, 1]).sum())


def test_what_one_stretch_favours_stands_its_ground(small: HomerModel) -> None:
    prompt = small.build_prompt(QUESTION, ["One.\n\nTwo.\n\nAll."])
    votes = torch.zeros(4, len(prompt.context_ids))
    _, starts, ends = prompt.origins.unbind(1)
    for place, row, vote in ((2, 0, 0.5), (7, 1, 0.5), (12, slice(4), 0.2)):
        votes[row, ((starts <= place) & (place < ends)).nonzero()[0]] = vote
    best = {}
    for sharpness in (1.0, 8.0):
        parts = Parts.of(prompt, votes, sharpness)
        best[sharpness] = [parts.groups(keep, 2.0)[0][0] for keep in ("passages", "sentences")]
    assert best == {1.0: [2, 2], 8.0: [0, 0]}
    assert sum(Parts.of(prompt, votes, 8.0).shares) == pytest.approx(1)


def test_sharpness_is_the_questions_own(small: HomerModel) -> None:
    shares = [
        Compressor(small, config=dataclasses.replace(small.config, significance=given)).score(QUESTION, TEXTS)
        for given in ("question", Question(), Question(sharpness=1.5), Question(sharpness=4.0))
    ]
    assert shares[0] == shares[1] == shares[2] != shares[3]


def test_what_is_asked_for_is_found(mini: HomerModel) -> None:
    documents = read_documents([Path(DOCUMENTS)])
    question = "What is the maximum fill level of the nitrogen dewar?"
    result = Compressor(mini).compress(question, documents[2:6], max_tokens=60)
    assert "The maximum fill level of the nitrogen dewar is 35 litres." in result.text
    assert result.ranking[0] == 1
    assert mini.ask(question, result.documents).text.startswith("35 litres")


def test_work_ends_at_a_tick(small: HomerModel) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Compressor(small).compress(QUESTION, TEXTS, top_k=1, tick=stop)
