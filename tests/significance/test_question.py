"""Looking from the question: heads, stretches, sentences and passages; measured when first needed, kept and read."""

import dataclasses
from pathlib import Path

import pytest
import torch
from small import save_small

from homer import (
    Calibration,
    CalibrationError,
    ConfigError,
    HomerConfig,
    HomerModel,
    InputError,
    Observation,
    load_calibration,
)
from homer.calibrating.on_demand import calibration_folder
from homer.calibrating.team import choose_team, hits
from homer.config import usual_target
from homer.merging.walk import Walk
from homer.significance.choosing import settled
from homer.significance.evidence import QuestionLook, stretches
from homer.significance.question import Question, best_heads, density, in_order, runs, votes
from homer.significance.sentences import number_parts
from homer.view.sources import trace_sources

CODE = "The door code for the north gate is 48213."


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> HomerModel:
    config = HomerConfig(max_chunk_len=240, target_len=64)
    return HomerModel.from_pretrained(save_small(tmp_path_factory.mktemp("small")), config=config)


def test_attention_of_the_question_equals_a_plain_softmax() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 20, 8)
    look = QuestionLook({3: (1, 2)}, behind=2, weights=stretches(3))
    found = look.attention(3, query, key, 0.5)
    assert found.shape == (2, 2, 3, 20)
    wide = key.repeat_interleave(2, 1)
    for row, head, token in ((0, 0, 0), (1, 1, 2)):
        place = 15 + token  # of 20 tokens the last two are behind the question's three
        logits = query[row, 1 + head, 1 + token] @ wide[row, 1 + head, : place + 1].T * 0.5
        torch.testing.assert_close(found[row, head, token, : place + 1], logits.softmax(-1))
        assert not found[row, head, token, place + 1 :].any()


def test_padding_gets_nothing() -> None:
    padding = torch.zeros(1, 9, dtype=torch.bool)
    padding[0, :4] = True
    look = QuestionLook({0: (0,)}, 0, stretches(2), padding)
    found = look.attention(0, torch.randn(1, 1, 3, 4), torch.randn(1, 1, 9, 4), 1.0)
    assert not found[..., :4].any()
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 1, 2))


def test_a_long_question_has_stretches_of_equal_length() -> None:
    assert torch.equal(stretches(3), torch.eye(3))
    rows = stretches(40, 16)
    assert rows.shape == (16, 40)
    torch.testing.assert_close(rows.sum(1), torch.ones(16))


def test_each_stretch_has_one_vote() -> None:
    attention = torch.tensor([[0.5, 0.4, 0.1, 0.0, 0.0], [0.9, 0.0, 0.0, 0.1, 0.0]])
    shares = votes(attention, 1, 1)
    assert shares[:, 0].tolist() == [0, 0]
    assert 0.75 < shares[0, 1] < 0.8
    assert shares[1, 3] > 0.9  # it gave the context little, but all of that to one token


def test_what_one_stretch_favours_stands_its_ground() -> None:
    scores = torch.full((4, 8), 0.6 / 7)
    scores[:3, 0] = 0.4  # most stretches, a little
    scores[3] = 0.2 / 7
    scores[3, 4] = 0.8  # one of four, strongly
    seen = Observation({}, torch.arange(8)[None], torch.arange(8)[None], None, 0, 0, 6, sentences=torch.arange(8)[None],
                       passages=torch.arange(8)[None])  # fmt: skip
    first = {power: int(Question(sharpness=power).rank(scores, seen)[0].argmax()) for power in (1.0, 4.0)}
    assert first == {1.0: 0, 4.0: 4}


@pytest.mark.parametrize("power", [0, -1, 17])
def test_a_sharpness_out_of_range_is_refused(power: float) -> None:
    with pytest.raises(ConfigError, match=f"sharpness={power}"):
        Question(sharpness=power)


def test_whole_groups_in_order() -> None:
    groups = torch.tensor([4, 4, 7, 7, 7, 9])
    assert runs(groups).tolist() == [0, 0, 1, 1, 1, 2]
    worth = density(torch.tensor([0.0, 0.2, 0.3, 0.3, 0.3, 0.4]), groups)
    ranks = in_order(worth, groups)
    assert ranks.argsort(descending=True).tolist() == [2, 3, 4, 5, 0, 1]


def test_the_best_heads() -> None:
    shares = torch.zeros(3, 2)
    shares[2, 1], shares[0, 0], shares[1, 1] = 0.8, 0.5, 0.1
    assert best_heads(shares, 4, 0.5) == {0: (0,), 2: (1,)}
    assert best_heads(shares, 1, 0.0) == {2: (1,)}
    with pytest.raises(CalibrationError, match="needs a calibration that knows the heads"):
        Question().question_heads(None)


def test_passages_end_at_blank_lines(mini: HomerModel) -> None:
    text = "Document: A\nIt is so. It is not.\n\nDocument: B\nWho knows? Nobody.\n\n"
    ids = torch.tensor(mini.tokenize(text))
    sentences, passages = number_parts(mini.tokenizer, ids)
    split = [mini.tokenizer.decode(ids[passages == n]) for n in range(int(passages.max()) + 1)]
    assert [part.strip() for part in split] == [part.strip() for part in text.strip().split("\n\n")]
    assert int(sentences.max()) == 5


def test_the_question_without_what_is_around_it(mini: HomerModel) -> None:
    question = "What is the door code?"
    prompt = mini.build_prompt(question, [CODE])
    first, end = prompt.question_span
    assert mini.tokenizer.decode(prompt.suffix_ids[first:end]).strip() == question
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}]
    chat = mini.build_chat_prompt([*messages, {"role": "user", "content": question}], [CODE])
    first, end = chat.question_span
    assert mini.tokenizer.decode(chat.suffix_ids[first:end]).strip() == question
    with pytest.raises(InputError, match=r"question_span=\(3, 900\) is no part of a suffix"):
        mini.compress(prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids, question_span=(3, 900))


def test_auto_goes_by_what_was_found() -> None:
    heads = torch.rand(6, 4)
    found = {"question": 0.9, "paper": 0.1}
    assert settled("auto", Calibration(torch.zeros(6, 0), {"found": found}, question_heads=heads)) == "question"
    found = {"question": 0.2, "standardized": 0.3}
    assert settled("auto", Calibration(torch.zeros(6, 0), {"found": found}, question_heads=heads)) == "standardized"


def test_a_later_warmup_only_where_all_good_heads_lie_higher() -> None:
    assert HomerConfig().resolve(4096, 32, evidence_layer=9).layers_warmup == 12
    assert HomerConfig().resolve(4096, 32, evidence_layer=20).layers_warmup == 21
    assert HomerConfig(layers_warmup=5).resolve(4096, 32, evidence_layer=20).layers_warmup == 5


def test_measured_once_kept_and_used(small: HomerModel, caplog: pytest.LogCaptureFixture) -> None:
    documents = [f"Room {i} holds {i * 7} chairs. It is painted green." for i in range(40)]
    question = dataclasses.replace(small.config, significance="question")
    first = small.ask("How many chairs are in room 7?", documents, config=question, max_new_tokens=2)
    assert first.usage.kept_tokens == 64
    assert "measuring which attention heads" in caplog.text
    assert list(calibration_folder().glob(f"{small.decoder.fingerprint}-*.safetensors"))
    caplog.clear()
    again = HomerModel(small.model, small.tokenizer, small.config)
    second = again.ask("How many chairs are in room 7?", documents, config=question, max_new_tokens=2)
    assert "measuring" not in caplog.text
    assert second.text == first.text
    off = HomerModel(small.model, small.tokenizer, small.config, calibration=False)
    prompt = off.build_prompt("How many chairs are in room 7?", documents)
    assert off.compress_prompt(prompt).config.significance == "paper"


def test_encoded_contexts_keep_the_same(small: HomerModel) -> None:
    documents = [f"Room {i} holds {i * 7} chairs. It is painted green." for i in range(40)]
    config = dataclasses.replace(small.config, significance="question", suffix_budget=64)
    prompt = small.build_prompt("How many chairs are in room 7?", documents)
    plain = small.compress_prompt(prompt, config=config)
    encoded = small.encode(documents, config=config)
    kept = small.compress_encoded(encoded, prompt.suffix_ids, question_span=prompt.question_span)
    assert plain.config.significance == kept.config.significance == "question"
    assert kept.kept_tokens.tolist() == plain.kept_tokens.tolist()


def test_a_damaged_calibration_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    Calibration(torch.zeros(6, 0), {"found": {}}, question_heads=torch.rand(6, 4)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"found", b"fount"))
    with pytest.raises(CalibrationError, match="checksum"):
        load_calibration(path)


def test_scaled_weights_are_another_model(small: HomerModel) -> None:
    before = small.decoder.fingerprint
    other = HomerModel(small.model, small.tokenizer, small.config)
    weight = other.decoder.causal_lm.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight[3, 5] += 0.25
        changed = HomerModel(small.model, small.tokenizer, small.config).decoder.fingerprint
        weight[3, 5] -= 0.25
    assert changed != before


ROOMS = [f"Room {i} holds {i * 7} chairs. It is painted green." for i in range(40)]


def known_team(small: HomerModel, *team: tuple[int, int]) -> HomerModel:
    heads = torch.zeros(small.decoder.layers, small.decoder.heads)
    for layer, head in team:
        heads[layer, head] = 1
    facts = {"found": {"question": 1.0}, "team": [list(one) for one in team]}
    calibration = Calibration(torch.zeros(small.decoder.layers, 0), facts, question_heads=heads)
    return HomerModel(small.model, small.tokenizer, small.config, calibration)


def test_what_survives_is_read_anew(small: HomerModel) -> None:
    model = known_team(small, (1, 0), (3, 1))
    prompt = model.build_prompt("How many chairs are in room 7?", ROOMS)
    cache = model.compress_prompt(prompt)
    assert cache.position_ids[0].tolist() == list(range(64))
    assert cache.plan.reads_anew
    assert cache.next_position == cache.plan.next_position == 64
    ids = cache.token_ids[0]
    with torch.no_grad():
        plain = small.model(ids[None].to(small.decoder.device), use_cache=True)
    torch.testing.assert_close(cache.logits, plain.logits[:, -1].float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cache.keys[-1], plain.past_key_values.layers[-1].keys, atol=1e-4, rtol=1e-4)


def test_documents_are_read_in_the_order_of_their_worth(small: HomerModel) -> None:
    model = known_team(small, (1, 0), (3, 1))
    prompt = model.build_prompt("How many chairs are in room 7?", ROOMS)
    cache = model.compress_prompt(prompt)
    given = dataclasses.replace(model.config, significance=Question(best_last=False))
    plain = model.compress_prompt(prompt, config=given)
    assert plain.kept_tokens.tolist() == sorted(cache.kept_tokens.tolist()) != cache.kept_tokens.tolist()
    inner = slice(cache.prefix_len, len(cache) - cache.suffix_len)
    numbers = prompt.origins[cache.kept_tokens[inner] - cache.prefix_len, 0]
    _, counts = numbers.unique_consecutive(return_counts=True)
    assert len(counts) == len(numbers.unique())  # every document in one piece
    pieces = zip(cache.relevance[inner].split(counts.tolist()), counts.tolist(), strict=True)
    worth = [float(piece.sum()) / count**0.5 for piece, count in pieces]
    assert worth == sorted(worth)
    assert cache.kept_tokens[: cache.prefix_len].tolist() == list(range(cache.prefix_len))
    assert cache.kept_tokens[-1] == cache.input_tokens - 1
    assert [s.kept for s in trace_sources(prompt, cache)] == [s.kept for s in trace_sources(prompt, plain)]


def test_what_keeps_its_place_is_not_moved() -> None:
    scores = torch.tensor([[0.0, 9.0, 3.0, 3.0, 1.0, 2.0, 8.0, 0.0]])
    documents = torch.tensor([-1, -1, 0, 0, 1, 2, -1, -1])  # prefix and earlier conversation, documents, suffix
    assert Question().arrange(scores, documents).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert Question(best_last=False).arrange(scores, documents) is None
    assert Question().arrange(scores, torch.full((8,), -1)) is None


def test_document_numbers_are_checked(small: HomerModel) -> None:
    for numbers, said in (([0], "1 for 300"), ([-2] * 300, "-2"), (["a"] * 300, "numbers")):
        with pytest.raises(InputError, match=said):
            small.compress([1], [5] * 300, [2], document_numbers=numbers)


def test_earlier_turns_keep_their_place(small: HomerModel) -> None:
    turns = [{"role": role, "content": f"{role} says {n}. " * 20} for n in range(4) for role in ("user", "assistant")]
    prompt = small.build_chat_prompt([*turns, {"role": "user", "content": "Which room?"}], ROOMS)
    assert prompt.documents[-1].keeps_place
    earlier = prompt.origins[:, 0] == len(ROOMS)
    assert earlier.any()
    assert (prompt.document_numbers[earlier] == -1).all()
    assert torch.equal(prompt.document_numbers[~earlier], prompt.origins[~earlier, 0])


def test_layers_that_nobody_looks_at_change_nothing(small: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = known_team(small, (1, 0), (2, 1))
    prompt = model.build_prompt("How many chairs are in room 7?", ROOMS)
    ran: list[tuple[int, int]] = []
    run = type(model.decoder).run

    def counted(self, first: int, end: int, *rest: object, **options: object) -> object:
        ran.append((first, end))
        return run(self, first, end, *rest, **options)

    monkeypatch.setattr(type(model.decoder), "run", counted)
    quick = model.compress_prompt(prompt)
    *tree, last = ran
    assert last == (0, model.decoder.layers)
    top = next(first for first, end in quick.plan.layers if first <= 2 < end)
    assert max(first for first, _ in tree) <= top
    monkeypatch.setattr(Walk, "blind", lambda self, level: False)
    assert model.compress_prompt(prompt).kept_tokens.tolist() == quick.kept_tokens.tolist()


def test_a_usual_target_leaves_room_for_the_affix(small: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homer.model.settings.usual_target", lambda window: 40)
    model = known_team(small, (1, 0))
    prompt = model.build_prompt("How many chairs are in room 7?", ROOMS)
    config = HomerConfig(max_chunk_len=240)
    affix = len(prompt.prefix_ids) + len(prompt.suffix_ids)
    assert len(model.compress_prompt(prompt, config=config)) == affix + 40
    assert len(model.compress_prompt(prompt, config=dataclasses.replace(config, significance="paper"))) > affix + 40
    encoded = model.encode(ROOMS, suffix_budget=64, config=config)
    kept = model.compress_encoded(encoded, prompt.suffix_ids, question_span=prompt.question_span)
    assert len(kept) == len(prompt.prefix_ids) + 64 + 40  # as for any question in the budget
    assert [usual_target(window) for window in (2048, 8192, 131_072)] == [512, 512, 8192]


def test_a_team_is_chosen_by_what_each_adds() -> None:
    votes = torch.full((4, 4, 3), 0.1)
    right = torch.zeros(4, dtype=torch.long)
    votes[:3, 0, 0] = 0.9  # finds three of four
    votes[:3, 1, 0] = 0.8  # the same three
    votes[3, 2, 0] = 0.9  # the fourth
    assert hits(votes, right).mean(0).tolist() == [0.75, 0.75, 0.25, 0.0]
    assert choose_team(votes, right)[:2] == [0, 2]
    assert len(choose_team(votes, right)) < 4  # the last one adds nothing


def test_a_team_beyond_the_model_is_refused() -> None:
    for team in ([[9, 0]], [[0, 4]], [3], "ab"):
        with pytest.raises(CalibrationError, match="team"):
            Calibration(torch.zeros(6, 0), {"team": team}, question_heads=torch.rand(6, 4))


def test_an_answer_tells_what_decided(small: HomerModel, tmp_path: Path) -> None:
    model = known_team(small, (1, 0), (3, 1))
    answer = model.ask("How many chairs are in room 7?", ROOMS, max_new_tokens=2)
    assert answer.trace is not None
    told = answer.trace.significance, answer.trace.heads, answer.trace.layers_warmup
    assert told == ("question", ((1, 0), (3, 1)), 2)
    assert type(answer).from_dict(answer.to_dict()).trace == answer.trace
    cache = model.compress_prompt(model.build_prompt("How many chairs are in room 7?", ROOMS))
    cache.save(tmp_path / "c.safetensors")
    assert type(cache).load(tmp_path / "c.safetensors").heads == cache.heads == ((1, 0), (3, 1))
