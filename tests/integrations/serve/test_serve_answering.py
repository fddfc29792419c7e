"""From a backend's events to what clients and Prometheus are told; and what `homer serve` makes of its options."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from homer import Answer, ConfigError, Usage
from homer.cli import main
from homer_integrations.serve import command
from homer_integrations.serve.answering import Answering
from homer_integrations.serve.jobs import Accepted, Finished, Job
from homer_integrations.serve.metrics import Metrics
from homer_integrations.serve.responses import Shape, model_list, usage

ANSWER = Answer("48 213", (), Usage(input_tokens=70, kept_tokens=60, output_tokens=5), "length")


class Says:
    """A backend that always says the same."""

    async def stream(self, job: Job) -> AsyncGenerator[Any, None]:
        yield Accepted(70)
        yield "48"
        yield " 213"
        yield Finished(ANSWER, 9)

    def busyness(self) -> dict[str, float]:
        return {"requests_running": 1.0}


def answering(jobs: int = 1, chat: bool = True) -> tuple[Answering, Metrics]:
    backend = Says()
    metrics = Metrics(backend)
    return Answering(backend, metrics, [Job((), (), {}, None, "") for _ in range(jobs)], Shape(chat, "mini")), metrics


async def test_an_answer_is_told_whole_and_counted() -> None:
    asked, metrics = answering()
    told = await asked.whole()
    assert told["choices"][0]["message"]["content"] == "48 213"
    assert told["choices"][0]["finish_reason"] == "length"
    assert told["usage"]["prompt_tokens_details"]["cached_tokens"] == 9
    text = metrics.render().decode()
    for line in ("homer_prompt_tokens_total 70.0", "homer_cached_tokens_total 9.0", "homer_requests_running 1.0"):
        assert line in text


async def test_a_stream_has_every_piece_and_says_how_it_ended() -> None:
    asked, _ = answering()
    response = await asked.stream(keep_alive=5, wants_usage=True)
    chunks = [chunk async for chunk in response.body_iterator]
    assert chunks[-1] == "[DONE]"
    told = [json.loads(chunk) for chunk in chunks[:-1]]
    said = "".join(c["choices"][0]["delta"].get("content", "") for c in told if c["choices"])
    assert said == "48 213"
    assert [c["choices"][0]["finish_reason"] for c in told if c["choices"]][-1] == "length"
    assert told[-1]["usage"]["total_tokens"] == 75


async def test_several_prompts_have_a_choice_each() -> None:
    asked, _ = answering(jobs=3, chat=False)
    told = await asked.whole()
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2]
    assert told["usage"] == usage([Finished(ANSWER, 9)] * 3)


def test_the_list_of_models_is_the_one_that_is_served() -> None:
    told = model_list("mini", 1000, 5)
    assert (told["data"][0]["id"], told["data"][0]["max_model_len"]) == ("mini", 1000)


def test_a_setting_out_of_range_is_named_as_the_option_that_it_is() -> None:
    with pytest.raises(ConfigError, match="--max-running 0"):
        command.run({"max_running": 0}, "127.0.0.1", 0)


def test_every_option_that_is_given_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Any, ...]] = []
    monkeypatch.setattr(command, "run", lambda *given, **_: started.append(given) or 0)
    monkeypatch.setenv("HOMER_API_KEY", "of the environment")
    assert main(["serve", "--port", "9", "--max-running", "3", "--allowed-origins", "http://a", "*"]) == 0
    given, host, port = started[0]
    assert (host, port, given["max_running"], given["api_key"]) == ("127.0.0.1", 9, 3, "of the environment")
    assert given["allowed_origins"] == ["http://a", "*"]


def test_who_is_let_in_without_a_key_is_said(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stops:
        def run(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "make_server", lambda *_: Stops())
    assert command.run({"allowed_origins": ("*",)}, "0.0.0.0", 9) == 0
    said = capsys.readouterr().err
    assert "lets other machines in" in said
    assert "every web page" in said
