"""One request's choice of its next token."""

import torch

from homer.generation.choosing import Chooser, reader
from homer.generation.sampling import Sampling

LOGITS = torch.tensor([[0.0, 3.0, 2.9, -1.0]])


def chooser(**options: object) -> Chooser:
    return Chooser(Sampling(**options), torch.tensor([[3]]), LOGITS.device)


def test_only_the_likeliest_token_is_plain() -> None:
    assert chooser().plain
    assert int(chooser().choose(LOGITS)) == 1
    assert not chooser(temperature=0.7).plain
    assert not chooser(repetition_penalty=2.0).plain


def test_what_was_accepted_is_penalized() -> None:
    penal = chooser(repetition_penalty=2.0)
    chosen = []
    for _ in range(3):
        chosen.append(int(penal.choose(LOGITS)))
        penal.accept(chosen[-1])
    assert chosen == [1, 2, 1]  # 3.0, then 2.9 over 1.5, then 1.5 over 1.45


def test_a_seed_gives_the_same_tokens_whoever_draws_between() -> None:
    alone = chooser(temperature=1.0, seed=7)
    expected = [int(alone.choose(LOGITS)) for _ in range(20)]
    ours, other = chooser(temperature=1.0, seed=7), chooser(temperature=1.0)
    found = [(int(ours.choose(LOGITS)), other.choose(LOGITS))[0] for _ in range(20)]
    assert found == expected
    assert len(set(found)) > 1


def test_numbers_of_any_shape_are_read() -> None:
    assert reader(torch.tensor(5))() == [5]
    assert reader(torch.tensor([5, 6]), torch.tensor([[0.5]]))() == [[5, 6], [[0.5]]]
