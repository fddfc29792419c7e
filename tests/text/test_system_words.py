"""What the system says stays whole beside what it is told of tools and schemas: the user's, the template's, or ours."""

import json
from typing import Any

import pytest

pytest.importorskip("llguidance")

from conftest import tiny_llama

from homer import HomerConfig, HomerModel
from homer.text.prompt import DEFAULT_SYSTEM
from homer.text.tools import ToolTexts, said, usual_words
from tests.byte_tokenizers import LLAMA2_TEMPLATE, NO_SYSTEM_TEMPLATE, byte_tokenizer
from tests.tool_tokenizers import TOOL_TEMPLATE, tool_tokenizer

USUAL = "You are of use."
# as Qwen2.5 has it, which says something of its own, and as Qwen3, which begins with the tools then
SPEAKING = TOOL_TEMPLATE.replace("else '' -%}", f"else '{USUAL}' -%}}", 1)
SILENT = TOOL_TEMPLATE.replace(
    "{{ told }}\n{%- if tools %}\n\nYou", "{{ told }}{%- if tools %}{{ '\\n\\n' if told }}You"
)
PLAIN = (
    f"{{% if messages[0].role != 'system' %}}<s>system: {USUAL}</s>{{% endif %}}"
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}<|assistant|>"
)
FILL = {
    "type": "function",
    "function": {"name": "fill", "description": "Fill it.", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}}
TOLD = f"Answer with JSON that holds to this schema: {json.dumps(SCHEMA)}"
ASKED = [{"role": "user", "content": "Hello?"}]
OWN = [{"role": "system", "content": "Be kind."}, *ASKED]


def made(template: str) -> HomerModel:
    tokenizer = tool_tokenizer()
    tokenizer.chat_template = template
    return HomerModel(tiny_llama(window=4096), tokenizer, HomerConfig(max_chunk_len=512, layers_warmup=2), False)


@pytest.fixture(scope="module", params=[SPEAKING, SILENT, PLAIN], ids=["speaking", "silent", "without tools"])
def model(request: pytest.FixtureRequest) -> HomerModel:
    return made(request.param)


def laid(model: HomerModel, messages: list[Any], documents: list[str], **options: Any) -> str:
    """The prompt's text."""
    turn = model.turn(messages, **options)
    prompt = model.build_chat_prompt(turn.messages, documents)
    text: str = model.tokenizer.decode([int(token) for part in prompt.parts for token in part])
    return text


def by_template(model: HomerModel, messages: list[Any], tools: Any = None) -> str:
    text: str = model.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    return text


def with_system(words: str, rest: list[Any] = ASKED) -> list[Any]:
    return [{"role": "system", "content": words}, *rest]


def test_templates_are_what_they_are_said_to_be() -> None:
    assert [usual_words(made(template).tokenizer) for template in (SPEAKING, SILENT, PLAIN)] == [USUAL, "", USUAL]
    for template in (None, LLAMA2_TEMPLATE, NO_SYSTEM_TEMPLATE, "{{ raise_exception('no') }}"):
        assert usual_words(byte_tokenizer(template)) == ""
    assert "system: You have" in by_template(made(SILENT), ASKED, [FILL])


def test_the_templates_own_words_stay_beside_a_schema(model: HomerModel) -> None:
    usual = usual_words(model.tokenizer)
    words = f"{usual}\n{TOLD}" if usual else TOLD
    assert laid(model, ASKED, [], schema=SCHEMA) == by_template(model, with_system(words))
    assert laid(model, OWN, [], schema=SCHEMA) == by_template(model, with_system(f"Be kind.\n{TOLD}"))


def test_documents_bring_the_librarys_own(model: HomerModel) -> None:
    for messages, words in ((ASKED, DEFAULT_SYSTEM), (OWN, "Be kind.")):
        with_schema = laid(model, messages, ["The dewar."], schema=SCHEMA)
        assert with_schema.count(f"system: {words}\n{TOLD}</s>") == 1
        assert USUAL not in with_schema
        for options in ({"tools": [FILL]}, {"tools": [FILL], "schema": SCHEMA}):
            text = laid(model, messages, ["The dewar."], **options)
            assert text.count(f"system: {words}\n") == 1
            assert text.count('"fill"') == 1
            assert text.count(TOLD) == ("schema" in options)
            assert USUAL not in text


@pytest.mark.parametrize("template", [SPEAKING, SILENT])
def test_tools_without_documents_are_the_templates_own_token_for_token(template: str) -> None:
    model = made(template)
    usual = usual_words(model.tokenizer)
    for messages in (ASKED, OWN):
        assert laid(model, messages, [], tools=[FILL]) == by_template(model, messages, [FILL])
        text = laid(model, messages, [], tools=[FILL], schema=SCHEMA)
        assert text.count('"fill"') == text.count(TOLD) == 1
        assert f"{'Be kind.' if messages is OWN else usual}\n{TOLD}".strip() in text


def test_tools_beside_a_template_that_knows_none() -> None:
    model = made(PLAIN)
    assert laid(model, ASKED, [], tools=[FILL]).startswith(f"<s>system: {USUAL}\n\nYou may call tools.")
    later = [*ASKED, *OWN]
    assert laid(model, later, [], tools=[FILL]).startswith(f"<s>system: {USUAL}\n\nYou may call tools.")
    assert DEFAULT_SYSTEM not in laid(model, later, ["The dewar."], tools=[FILL])


def test_documents_at_a_place_of_their_own_leave_it_to_the_template() -> None:
    model = made(PLAIN)
    turn = model.turn([{"role": "user", "content": "Read HERE. Hello?"}], schema=SCHEMA)
    prompt = model.build_chat_prompt(turn.messages, ["The dewar."], place="HERE")
    text = model.tokenizer.decode(prompt.prefix_ids)
    assert text.startswith(f"<s>system: {USUAL}\n{TOLD}</s>")
    texts = ToolTexts("a", "b", usual="words")
    assert [said([texts.unsaid()], words)[0]["content"] for words in (None, "own")] == ["awordsb", "aownb"]
    assert said("no messages", "own") == "no messages"
