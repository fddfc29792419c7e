"""Models that think, on the command line: switched on and off, their thoughts shown or not, and what was cut."""

import json
from pathlib import Path

import pytest

from homer import HomerModel
from homer.cli import main, running
from homer.cli.indexing import encode_from_store
from homer_integrations.batch import Batch, run_batch
from tests.thinkers import ANSWER, THOUGHT, thinking_model

OFF = '{"enable_thinking": false}'
ASK = ["ask", "--question", "How much?", "--no-progress"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thinker")
    thinker = thinking_model()
    thinker.decoder.causal_lm.save_pretrained(folder)
    thinker.tokenizer.save_pretrained(folder)
    (folder / "dewar.txt").write_text("The dewar holds 35 litres.")
    return folder


def asked(saved: Path, *options: str) -> list[str]:
    return [*ASK, str(saved / "dewar.txt"), "--model", str(saved), *options]


def test_thoughts_are_hidden_shown_or_not_there(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(saved)) == 0
    hidden = capsys.readouterr().out
    assert hidden.startswith(f"{ANSWER}\n")
    assert THOUGHT not in hidden
    assert "5 tokens of thought" in hidden
    assert main(asked(saved, "--show-thinking")) == 0
    assert capsys.readouterr().out.startswith(f"Thought: {THOUGHT}\n\n{ANSWER}\n")
    assert main(asked(saved, "--show-thinking", "--chat-template-kwargs", OFF)) == 0
    off = capsys.readouterr().out
    assert off.startswith(f"{ANSWER}\n")
    assert "hought" not in off
    assert main(asked(saved, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["reasoning"], told["usage"]["reasoning_tokens"]) == (THOUGHT, 5)


def test_what_was_cut_is_said(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tokens, words in (("3", "thought was cut before there was an answer after 3"), ("6", "answer was cut after 6")):
        assert main(asked(saved, "--max-tokens", tokens)) == 0
        out, err = capsys.readouterr()
        assert f"homer: the {words} tokens: raise --max-tokens" in err
        assert "--max-tokens" not in out
    assert main(asked(saved)) == 0
    assert "cut" not in capsys.readouterr().err


def test_a_wrong_variable_is_refused(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(saved, "--chat-template-kwargs", '{"enable_thought": true}')) == 2
    assert "enable_thought" in capsys.readouterr().err
    for command in (asked(saved), ["serve"], ["batch", "questions.jsonl", "--out", "a.jsonl"]):
        for wrong in ("[1]", "no"):
            with pytest.raises(SystemExit) as error:
                main([*command, "--chat-template-kwargs", wrong])
            assert error.value.code == 2
            assert f"{wrong} is no JSON object" in capsys.readouterr().err


def test_a_store_is_asked_by_the_same_template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[object] = []
    real = running.HomerModel.from_pretrained

    def noting(*arguments: object, **options: object) -> HomerModel:
        seen.append(options["chat_template_kwargs"])
        return real("mini")

    monkeypatch.setattr(running.HomerModel, "from_pretrained", noting)
    (tmp_path / "a.txt").write_text("The dewar holds 35 litres.")
    for command in (["index", "--out", str(tmp_path / "s")], [*ASK, "--store", str(tmp_path / "s")]):
        main([*command, str(tmp_path / "a.txt"), "--chat-template-kwargs", OFF])
    assert seen == [{"enable_thinking": False}] * 2


def test_room_for_a_question_is_counted_as_the_template_lays_it_out(tmp_path: Path) -> None:
    thinker = thinking_model(chat_template_kwargs={"enable_thinking": False})
    documents = ["The dewar holds 35 litres. " * 40]
    encoded = encode_from_store(thinker, "How much?", documents, tmp_path)
    assert thinker.ask("How much?", encoded).text == ANSWER


def test_a_batch_tells_thoughts(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id": 1, "question": "How much?", "documents": ["35 litres"]}\n')
    for number, (kwargs, thought) in enumerate((({}, THOUGHT), ({"enable_thinking": False}, None))):
        out = tmp_path / f"{number}.jsonl"
        batch = Batch({"model": str(saved), "chat_template_kwargs": kwargs})
        assert run_batch(batch, tmp_path / "q.jsonl", out).answered == 1
        row = json.loads(out.read_text())
        assert (row["answer"], row.get("reasoning")) == (ANSWER, thought)
