"""The scripts that made the small model: rows are the library's prompts, and the training forward is the model."""

import itertools
from random import Random

import numpy as np
import pytest
import torch
from conftest import random_ids, tiny_llama
from transformers import AutoTokenizer

from homer.loading import MINI
from training.data import ANSWER, FACT, LENGTH, Row, Rows
from training.facts import ABSENT, Facts
from training.library import tokenize, workplace_passages
from training.network import forward
from training.train import draw_merges


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder, tokenizer = tmp_path_factory.mktemp("prepared"), AutoTokenizer.from_pretrained(MINI)
    passages = list(workplace_passages(seed=1, rounds=1))
    tokenize(tokenizer, passages, "\n\n").save(folder / "workplace.npz")
    tokenize(tokenizer, passages, "\n").save(folder / "books.npz")
    return list(itertools.islice(Rows(folder, tokenizer, seed=3), 200))


def test_pieces_side_by_side_are_the_tokens_of_the_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    passages = list(workplace_passages(seed=2, rounds=1))[:80]
    texts = tokenize(tokenizer, passages, "\n")
    whole = tokenizer("".join(f"\n{passage}" for passage in passages), add_special_tokens=False).input_ids
    assert texts.tokens.tolist() == whole


def test_rows_ask_for_facts_that_are_there(rows: list[Row]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    asked = [row for row in rows if row.queries[0, 0] >= 0]
    assert len(asked) > 100
    for row in asked:
        assert len(row.ids) == len(row.positions) == len(row.kinds) == len(row.owners) == LENGTH
        place, fact = row.queries[0]
        assert tokenizer.decode(row.ids[place]) == "<|assistant|>"
        first, end = row.context
        statement = tokenizer.decode(row.ids[first:end][row.owners[first:end] == fact])
        stop = place + 1 + row.ids[place + 1 :].tolist().index(tokenizer.eos_token_id)
        answer = tokenizer.decode(row.ids[place + 1 : stop])
        assert answer == ABSENT or answer.lower() in statement.lower()
        assert set(row.kinds[place + 1 : stop + 1]) == {ANSWER}
        assert set(row.kinds[row.owners > 0]) == {FACT}
        assert np.all(row.positions[first:place] < LENGTH)


def test_held_out_wordings_and_names_are_not_trained_on() -> None:
    seen, held_out = Facts(Random(1)), Facts(Random(1), held_out=True)
    assert not {seen.names.word() for _ in range(3000)} & {held_out.names.word() for _ in range(3000)}
    trained = {q.replace("pass key", "") for _ in range(300) for q in seen.secret().questions}
    assert not {held_out.pass_key().questions[0].replace("pass key", "")} & trained


def test_the_training_forward_is_the_model() -> None:
    model = tiny_llama(layers=6, key_heads=4)
    ids = torch.stack(random_ids(40, 40))
    positions = torch.arange(40).expand(2, -1)
    queries = torch.tensor([[[30, 1]], [[-1, 0]]])
    context, owners = torch.tensor([[4, 25], [4, 25]]), torch.zeros(2, 40, dtype=torch.long)
    owners[0, 10:14] = 1
    logits, evidence = forward(model, ids, positions, queries, context, owners)
    torch.testing.assert_close(logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    assert evidence > 0
    merges = draw_merges(Random(0), 6, 2)
    assert 1 <= merges.sum() <= 4
    assert forward(model, ids, positions, queries, context, owners, merges, ids.roll(1, 0))[1] != evidence
