"""Several choices and log-probabilities over HTTP, by OpenAI's own client: whole and in chunks."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from homer import Answer, GenerationError, HomerModel, Piece, TokenLogprob, Usage
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.choices import ChatLogprobs, CompletionLogprobs, SeveralChoices, Telling
from homer_integrations.serve.counted import Counted
from homer_integrations.serve.server import Server
from homer_integrations.shared.logprobs import Untold, read_logprobs
from tests.serving import client_of, create, long_documents, running

DRAWN: dict[str, Any] = {"temperature": 2.0, "seed": 5, "max_tokens": 8}
TOKENS = [TokenLogprob.of(n, -1.0 - n, spelled) for n, spelled in enumerate([b" ", b" G", b"r\xc3", b"\xbc", b"n"])]


@pytest.fixture(scope="module")
def server(mini: HomerModel) -> Iterator[Server]:
    settings = ServeSettings(model=mini, served_name="mini", max_tokens=64, timeout=300, store_bytes=0)
    with running(settings) as started:
        yield started


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return client_of(server.url)


def streamed(chunks: Any) -> tuple[dict[int, str], dict[int, list[Any]], Any]:
    """Texts and log-probabilities by choice, and the usage."""
    texts: dict[int, str] = {}
    logprobs: dict[int, list[Any]] = {}
    usage = None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            logprobs.setdefault(choice.index, []).extend(choice.logprobs.content if choice.logprobs else ())
    return texts, logprobs, usage


def test_choices_are_drawn_from_one_compression(
    client: openai.OpenAI, mini: HomerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed: list[int] = []
    compress = HomerModel.compress_prompt
    monkeypatch.setattr(
        HomerModel, "compress_prompt", lambda *given, **options: compressed.append(1) or compress(*given, **options)
    )
    extra = {"documents": long_documents(5000)}
    asked = "Say something of the weather."  # of which the documents say nothing
    whole = create(client, asked, n=3, extra_body=extra, **DRAWN)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) > 1
    assert len(compressed) == 1
    alone = [create(client, asked, extra_body=extra, **DRAWN | {"seed": 5 + n}) for n in range(3)]
    assert texts == [answered.choices[0].message.content for answered in alone]
    assert whole.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert whole.usage.completion_tokens == sum(answered.usage.completion_tokens for answered in alone)
    found, _, usage = streamed(
        create(client, asked, n=3, extra_body=extra, stream=True, stream_options={"include_usage": True}, **DRAWN)
    )
    assert found == dict(enumerate(texts))
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_greedy_choices_are_equal(client: openai.OpenAI) -> None:
    one, two = create(client, n=2, temperature=0, max_tokens=6).choices
    assert one.message.content == two.message.content


def test_choices_with_a_schema_and_with_tools(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"code": {"type": "integer", "maximum": 99, "minimum": 0}},
              "required": ["code"]}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "code", "schema": schema}}
    for choice in create(client, n=2, response_format=form, temperature=1.5, seed=1).choices:
        assert 0 <= json.loads(choice.message.content)["code"] <= 99
    tools = [{"type": "function", "function": {"name": "look", "description": "Look.", "parameters": schema}}]
    for choice in create(client, n=2, tools=tools, tool_choice="required", temperature=1.5, seed=1).choices:
        assert choice.finish_reason == "tool_calls"
        assert 0 <= json.loads(choice.message.tool_calls[0].function.arguments)["code"] <= 99


def test_several_prompts_have_their_choices_in_order(client: openai.OpenAI) -> None:
    asked = {"model": "mini", "prompt": ["Say one.", "Say two."], "n": 2} | DRAWN
    whole = client.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts: dict[int, str] = {}
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {choice.index: choice.text for choice in whole.choices}


def test_log_probabilities_of_every_token(client: openai.OpenAI) -> None:
    options = {"logprobs": True, "top_logprobs": 3, "n": 2} | DRAWN
    whole = create(client, **options)
    for choice in whole.choices:
        tokens = choice.logprobs.content
        spelled = bytes(byte for token in tokens for byte in token.bytes).decode()
        assert spelled.strip() == choice.message.content
        assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in tokens)
    _, logprobs, _ = streamed(create(client, **options, stream=True))
    assert logprobs == {choice.index: choice.logprobs.content for choice in whole.choices}
    assert create(client, **DRAWN).choices[0].logprobs is None


def test_log_probabilities_of_completions(client: openai.OpenAI) -> None:
    asked = {"model": "mini", "prompt": "Say one.", "logprobs": 2} | DRAWN
    whole = client.completions.create(**asked).choices[0]
    told = whole.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset)
    assert all(2 <= len(top) <= 3 for top in told.top_logprobs)
    for start, token in zip(told.text_offset, told.tokens, strict=True):
        assert whole.text[start:].lstrip().startswith(token.strip())
    chunks = [choice.logprobs for chunk in client.completions.create(**asked, stream=True) for choice in chunk.choices]
    offsets = [offset for logprobs in chunks if logprobs for offset in logprobs.text_offset]
    assert offsets == told.text_offset


@pytest.mark.parametrize(
    ("options", "words"),
    [({"n": 9}, "n: .*8"), ({"n": 0}, "n: "), ({"top_logprobs": 2}, "logprobs=True"),
     ({"logprobs": True, "top_logprobs": 21}, "top_logprobs")],
)  # fmt: skip
def test_what_is_too_much_is_refused(client: openai.OpenAI, options: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        create(client, extra_body=options)


def test_what_requests_ask_for() -> None:
    assert SeveralChoices().choices == 1
    assert ChatLogprobs(logprobs=True).alternatives == 0
    assert ChatLogprobs(logprobs=False).alternatives is None
    assert [CompletionLogprobs(logprobs=given).alternatives for given in (None, False, 0, 5)] == [None, None, 0, 5]
    for wrong in (True, 21, -1):
        with pytest.raises(ValidationError, match="20"):
            CompletionLogprobs(logprobs=wrong)
    for pair in (("yes", None), (True, 30), (None, 2), (True, True)):
        with pytest.raises(GenerationError):
            read_logprobs(*pair)


def test_offsets_are_of_characters_and_tokens_wait_for_their_chunk() -> None:
    assert Telling(chat=False).of(TOKENS)["text_offset"] == [0, 0, 1, 2, 3]
    assert Telling(chat=True).next() is None
    untold = Untold()
    untold.note("plain")
    untold.note(Piece("Gr", TOKENS[:3]))
    assert untold.take() == TOKENS[:3]
    untold.rest(Answer("Grün", (), Usage(1, 1, 5), "stop", logprobs=tuple(TOKENS)))
    assert untold.take() == TOKENS[3:]


def test_what_runs_is_counted_once_however_it_ends() -> None:
    class Ends:
        def parts(self) -> "Ends":
            return self

        def __next__(self) -> Piece:
            raise ValueError("over")

    counted: list[int] = []
    stream = Counted(Ends(), counted.append)
    with pytest.raises(ValueError, match="over"):
        next(stream)
    assert list(stream) == []
    assert counted == [1, -1]
