"""The passages that heads are tried on."""

from homer.calibrating.trials import load_pairs


def test_every_answer_stands_in_its_own_passage_alone() -> None:
    documents, asked = load_pairs()
    assert len(documents) == 40
    assert len(asked) == 80
    for question in asked:
        assert question.answer in documents[question.passage]["text"]
        assert documents[question.passage]["text"].count(question.answer) == 1
