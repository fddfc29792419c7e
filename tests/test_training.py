"""The scripts that made the small model: rows are the library's prompts, and the training forward is the model."""

import itertools
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from homer import HomerConfig, HomerModel
from homer.backends.loading import MINI
from training import merging
from training.data import ANSWER, FACT, LENGTH, WEIGHTS, Rows
from training.facts import ABSENT, Facts
from training.library import tokenize, workplace_passages
from training.merging import Functions, draw_shape, exact_shape
from training.network import FIRST_EVIDENCE_LAYER
from training.train import collate, row_losses
from training.trees import LEAVES, WIDTHS, Trees


@pytest.fixture(scope="module")
def supply(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    folder, tokenizer = tmp_path_factory.mktemp("prepared"), AutoTokenizer.from_pretrained(MINI)
    passages = list(workplace_passages(seed=1, rounds=1))
    tokenize(tokenizer, passages, "\n\n").save(folder / "workplace.npz")
    tokenize(tokenizer, passages, "\n").save(folder / "books.npz")
    return Rows(folder, tokenizer, seed=3)


def test_pieces_side_by_side_are_the_tokens_of_the_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    passages = list(workplace_passages(seed=2, rounds=1))[:80]
    texts = tokenize(tokenizer, passages, "\n")
    whole = tokenizer("".join(f"\n{passage}" for passage in passages), add_special_tokens=False).input_ids
    assert texts.tokens.tolist() == whole


def test_rows_ask_for_facts_that_are_there(supply: Rows) -> None:
    rows = list(itertools.islice(supply, 200))
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    asked = [row for row in rows if row.queries[0, 0] >= 0]
    assert len(asked) > 100
    for row in asked:
        assert len(row.ids) == len(row.kinds) == len(row.owners) == LENGTH
        place, fact = row.queries[0]
        assert tokenizer.decode(row.ids[place]) == "<|assistant|>"
        first, end = row.context
        statement = tokenizer.decode(row.ids[first:end][row.owners[first:end] == fact])
        stop = place + 1 + row.ids[place + 1 :].tolist().index(tokenizer.eos_token_id)
        answer = tokenizer.decode(row.ids[place + 1 : stop])
        assert answer == ABSENT or answer.lower() in statement.lower()
        assert set(row.kinds[place + 1 : stop + 1]) == {ANSWER}
        assert set(row.kinds[row.owners > 0]) == {FACT}


def test_held_out_wordings_and_names_are_not_trained_on() -> None:
    seen, held_out = Facts(Random(1)), Facts(Random(1), held_out=True)
    assert not {seen.names.word() for _ in range(3000)} & {held_out.names.word() for _ in range(3000)}
    trained = {q.replace("pass key", "") for _ in range(300) for q in seen.secret().questions}
    assert not {held_out.pass_key().questions[0].replace("pass key", "")} & trained


def test_the_training_forward_is_the_model(supply: Rows) -> None:
    model = AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32)
    batch = collate(itertools.islice(iter(supply), 2))
    weights = torch.tensor(WEIGHTS)
    language, evidence, right, asked = row_losses(model, batch, weights, Functions())
    ids, weight = batch["ids"].long(), weights[batch["kinds"].long()][:, 1:]
    with torch.no_grad():
        each = F.cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    torch.testing.assert_close(language, (each * weight).sum() / weight.sum(), atol=1e-4, rtol=1e-4)
    assert 0 < right <= asked
    evidence.backward()
    assert model.model.layers[FIRST_EVIDENCE_LAYER].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_training_trees_are_compressed_and_read_as_the_library_does(supply: Rows) -> None:
    """Kept evidence and greedy answers of whole trees, batched and padded, against HomerModel."""
    model = HomerModel.from_pretrained(MINI, dtype=torch.float32)
    model.calibration = None
    drawn = list(itertools.islice(Trees(supply).draw(WIDTHS[0]), 3))
    shape = exact_shape(16, 6, LEAVES)
    with torch.no_grad():
        batch = merging.TreeBatch(**collate(iter(drawn)))
        result = merging.forward(model.model, batch, shape, torch.zeros(3, dtype=torch.bool), 512, Functions())
    for tree, right, survived in zip(drawn, result.right[:, 0], result.survived[:, 0], strict=True):
        prefix, size, question = tree.lengths.tolist()
        inside = slice(prefix, prefix + size)
        parts = tree.leaves[0, :prefix], tree.leaves[:, inside].reshape(-1), tree.reading[0, :question]
        cache = model.compress(
            *(torch.from_numpy(part.astype("int64")) for part in parts),
            config=HomerConfig(max_chunk_len=512, target_len=512, layers_warmup=6, significance="paper"),
        )
        wanted = (tree.owners[:, inside].reshape(-1) == 1).nonzero()[0] + prefix
        kept = np.isin(wanted, cache.kept_tokens.numpy())
        assert survived.item() == pytest.approx(kept.mean() if len(kept) else 0)
        answer = tree.reading[0][tree.answer[0]].tolist()
        assert right.item() == (model.generate(cache, len(answer)).token_ids == answer)


def test_a_forced_fact_survives_any_tree(supply: Rows) -> None:
    model = AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32)
    batch = merging.TreeBatch(**collate(itertools.islice(Trees(supply).draw(WIDTHS[0]), 1)))
    for height in (2, 5):
        shape = draw_shape(Random(height), 16, 6, height)
        with torch.no_grad():
            result = merging.forward(model, batch, shape, torch.ones(1, dtype=torch.bool), 512, Functions())
        assert (result.survived[:, 0][batch.known[:, 0]] == 1).all()
        assert 0 < result.evidence < 20
        assert 0 < result.reading < 20
