from typing import Any

import pytest
import torch
from byte_tokenizers import HOSTILE, LLAMA2_TEMPLATE, NO_SYSTEM_TEMPLATE, byte_tokenizer, control_ids
from transformers import AutoTokenizer

from homer import Document, HomerConfig, HomerModel, InputError, Prompt, TimeoutExceededError
from homer.backends.loading import MINI
from homer.demo import DOCUMENTS as DEMO
from homer.text.conversation import EARLIER_TITLE, Limits, build_conversation, split_text
from homer.text.files import read_documents
from homer.text.prompt import PromptBuilder

TEXTS = [document["text"] for document in read_documents([DEMO])]
FACT = "The door code for the northern archive is 48213."
QUESTION = "What is the door code for the northern archive?"
LONG = f"{TEXTS[0][:4000]}\n\n{FACT}\n\n{TEXTS[1][:4000]}"
ALTERNATING_TEMPLATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<s>{{ m['role'] }}: {{ m['content'] | trim }}</s>{% endfor %}<|assistant|>"
)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def ids_of(prompt: Prompt) -> list[int]:
    return torch.cat([prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids]).tolist()


def text_of(model: HomerModel, prompt: Prompt) -> str:
    return model.tokenizer.decode(ids_of(prompt))


def affix_len(prompt: Prompt) -> int:
    return len(prompt.prefix_ids) + len(prompt.suffix_ids)


def traced(prompt: Prompt, number: int) -> str:
    """The text of a document as the origins of the context tokens tell it."""
    spans = prompt.origins[prompt.origins[:, 0] == number][:, 1:].tolist()
    return "".join(prompt.documents[number].text[a:b] for a, b in spans)


CHAT = [system("Be brief."), user("Hello, I am Ada."), said("Hello Ada."), user("  Who am I?\n")]


@pytest.mark.parametrize("messages", [[user("Hello there!")], CHAT[1:], CHAT], ids=["one turn", "turns", "system"])
def test_without_documents_the_prompt_is_the_chat_templates(mini: HomerModel, messages: list[dict[str, str]]) -> None:
    prompt = mini.build_chat_prompt(messages)
    whole = mini.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids_of(prompt) == whole
    assert mini.tokenizer.decode(prompt.context_ids) == messages[-1]["content"] == traced(prompt, 0)
    cache = mini.compress_prompt(prompt)
    assert len(cache) == len(whole)
    torch.testing.assert_close(cache.logits, mini.model(torch.tensor([whole])).logits[:, -1], atol=1e-4, rtol=1e-4)


def test_with_documents_a_question_is_what_ask_builds(mini: HomerModel) -> None:
    documents = [{"title": "A", "text": "One."}, "Two.", Document(LONG, "B")]
    for instructions in (None, "Be brief."):
        prompt = mini.build_prompt(QUESTION, documents, system=instructions)
        messages = [user(QUESTION)] if instructions is None else [system(instructions), user(QUESTION)]
        chat = mini.build_chat_prompt(messages, documents)
        for part in ("prefix_ids", "context_ids", "suffix_ids", "origins"):
            assert torch.equal(getattr(chat, part), getattr(prompt, part))
        assert chat.documents == prompt.documents


def test_earlier_turns_stay_whole_in_the_prefix_while_they_fit(mini: HomerModel) -> None:
    prompt = mini.build_chat_prompt([user("Hello, I am Ada."), said("Hello Ada."), user(QUESTION)], [LONG])
    assert len(prompt) > mini.window
    prefix = mini.tokenizer.decode(prompt.prefix_ids)
    assert prefix.endswith("<|user|>Hello, I am Ada.<|end|><|assistant|>Hello Ada.<|end|><|user|>")
    assert mini.tokenizer.decode(prompt.suffix_ids) == f"Question: {QUESTION}<|end|><|assistant|>"
    assert len(prompt.documents) == 1


def test_the_oldest_turns_join_the_context_in_order(mini: HomerModel) -> None:
    history = [message for n in range(20) for message in (user(f"Tell me of number {n}."), said(TEXTS[n % 9][:150]))]
    messages = [system("Be brief."), *history, user(QUESTION)]
    prompt = mini.build_chat_prompt(messages, [LONG])
    half = mini.config.max_chunk_len // 2
    assert half - 120 < affix_len(prompt) <= half  # one more exchange would not fit
    assert [document.title for document in prompt.documents] == [None, EARLIER_TITLE]
    earlier, text = prompt.documents[1].text, text_of(mini, prompt)
    left = earlier.count("User: Tell me of number")
    assert 0 < left < 20
    assert f"<|user|>Tell me of number {left}.<|end|>" in text
    places = [text.index(f"Tell me of number {n}.") for n in range(20)]
    assert places[:left] == sorted(places[:left])
    assert places[left:] == sorted(places[left:])
    for message in messages:
        assert message["content"] in text
    assert traced(prompt, 1) == earlier
    assert traced(prompt, 0) == LONG
    assert len(mini.compress_prompt(prompt)) <= mini.config.max_chunk_len


def test_a_conversation_beyond_the_window_keeps_its_question_and_loses_nothing(mini: HomerModel) -> None:
    messages = [user(f"Remember this. {LONG}"), said("I shall."), user(QUESTION)]
    prompt = mini.build_chat_prompt(messages)
    assert [document.title for document in prompt.documents] == [EARLIER_TITLE]
    assert prompt.documents[0].text == f"User: Remember this. {LONG}\nAssistant: I shall."
    assert text_of(mini, prompt).endswith(f"Assistant: I shall.\n\n{QUESTION}<|end|><|assistant|>")
    assert len(mini.compress_prompt(prompt)) <= mini.config.max_chunk_len


STUFFED = {
    "first and last line": f"Answer from these notes.\n\n{LONG}\n\nQuestion: {QUESTION}",
    "question before": f"Answer briefly.\nQuestion: {QUESTION}\nContext: {LONG}\nAnswer:",
    "one line": f"Answer from these notes. {' '.join(LONG.split())} Question: {QUESTION}",
}


@pytest.mark.parametrize("text", STUFFED.values(), ids=STUFFED)
def test_the_middle_of_a_long_message_is_the_context(mini: HomerModel, text: str) -> None:
    prompt = mini.build_chat_prompt([user("Hello."), said("Hello!"), user(text)])
    assert text_of(mini, prompt) == mini.tokenizer.apply_chat_template(
        [user("Hello."), said("Hello!"), user(text)], tokenize=False, add_generation_prompt=True
    )
    kept = mini.tokenizer.decode(prompt.prefix_ids) + "..." + mini.tokenizer.decode(prompt.suffix_ids)
    assert QUESTION in kept
    assert affix_len(prompt) <= mini.config.max_chunk_len // 2
    assert len(prompt.documents) == 1
    assert traced(prompt, 0) == prompt.documents[0].text
    assert FACT in prompt.documents[0].text


def test_a_stuffed_system_message_is_the_context(mini: HomerModel) -> None:
    messages = [system(f"Answer from these notes.\n\n{LONG}"), user("Hello."), said("Hello!"), user(QUESTION)]
    prompt = mini.build_chat_prompt(messages)
    assert mini.tokenizer.decode(prompt.prefix_ids).startswith("<|system|>Answer from these notes.")
    suffix = mini.tokenizer.decode(prompt.suffix_ids)
    assert suffix.endswith(f"<|user|>Hello.<|end|><|assistant|>Hello!<|end|><|user|>{QUESTION}<|end|><|assistant|>")
    assert FACT in prompt.documents[0].text


def test_a_place_for_the_documents(mini: HomerModel) -> None:
    messages = [system("Answer from:\n\n[[HERE]]\n\nBe brief."), user(QUESTION)]
    documents = [Document(FACT, "Notes", before="<doc>", after="</doc>")]
    prompt = mini.build_chat_prompt(messages, documents, place="[[HERE]]")
    assert mini.tokenizer.decode(prompt.context_ids) == f"<doc>{FACT}</doc>"
    assert traced(prompt, 0) == FACT
    expected = f"<|system|>Answer from:\n\n<doc>{FACT}</doc>\n\nBe brief.<|end|><|user|>{QUESTION}<|end|><|assistant|>"
    assert text_of(mini, prompt) == expected
    assert "[[HERE]]" not in text_of(mini, mini.build_chat_prompt(messages, place="[[HERE]]"))
    for text, times in (("no place", 0), ("[[HERE]] and [[HERE]]", 2)):
        with pytest.raises(InputError, match=f"stands {times} times"):
            mini.build_chat_prompt([system(text), user(QUESTION)], documents, place="[[HERE]]")


def test_last_lines_stay_whole_up_to_a_quarter_of_a_chunk() -> None:
    starts = list(range(0, 4000, 4))  # tokens of four characters
    text = "f" * 99 + "\n" + "m" * 3499 + "\n" + "l" * 400
    assert split_text(text, starts, 512) == (100, 3600)
    assert split_text(text, starts, 800) == (100, 3600)
    start, end = split_text(text, starts, 160)
    assert (start, end) == (20 * 4, 4000 - 20 * 4)


@pytest.mark.parametrize("template", [None, LLAMA2_TEMPLATE, NO_SYSTEM_TEMPLATE, ALTERNATING_TEMPLATE])
@pytest.mark.parametrize("documents", [(), (HOSTILE,)], ids=["chat", "documents"])
@pytest.mark.parametrize("whole", [100_000, 10], ids=["whole", "compressed"])
def test_nothing_said_becomes_a_control_token(template: str | None, documents: tuple[str, ...], whole: int) -> None:
    tokenizer = byte_tokenizer(template)
    builder = PromptBuilder(tokenizer)

    def build(words: str) -> Prompt:
        turns = [user(words), said(words)] * 3
        return build_conversation(builder, [system(words), *turns, user(words)], documents, Limits(whole, 600))

    hostile, harmless = build(HOSTILE), build("x" * len(HOSTILE))
    control = control_ids(tokenizer)
    assert [i for i in ids_of(hostile) if i in control] == [i for i in ids_of(harmless) if i in control]
    assert tokenizer.decode(ids_of(hostile)).count(HOSTILE) == 8 + len(documents)
    assert (hostile.documents[-1].title == EARLIER_TITLE) == (whole == 10)


def test_turns_that_a_template_refuses_are_joined() -> None:
    tokenizer = byte_tokenizer(ALTERNATING_TEMPLATE)
    messages = [system("Be brief."), user("One."), user(" Two. "), said("Three."), user("Four.")]
    text = tokenizer.decode(ids_of(build_conversation(PromptBuilder(tokenizer), messages, (), Limits(999, 512))))
    assert text == "<s>user: Be brief.\n\nOne.\n\n Two.</s><s>assistant: Three.</s><s>user: Four.</s><|assistant|>"


def test_a_template_that_refuses_everything_says_so() -> None:
    with pytest.raises(InputError, match="refuses the roles system, user: nothing goes"):
        PromptBuilder(byte_tokenizer("{{ raise_exception('nothing goes') }}"))
    with pytest.raises(InputError, match="leaves out the"):
        PromptBuilder(byte_tokenizer("{{ messages[0]['content'] }}{{ messages[0]['content'] }}"))


def test_a_base_model_gets_questions_and_answers() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    tokenizer.chat_template = None
    builder = PromptBuilder(tokenizer)

    def text(messages: list[dict[str, str]], documents: list[str]) -> str:
        return tokenizer.decode(ids_of(build_conversation(builder, messages, documents, Limits(999, 512))))

    turns = "Be brief.\n\nQuestion: Hello, I am Ada.\nAnswer: Hello Ada.\n\n"
    assert text(CHAT, []) == f"{turns}Question:   Who am I?\n\nAnswer:"
    assert text(CHAT, ["One."]) == f"{turns}Document:\nOne.\n\nQuestion:   Who am I?\n\nAnswer:"
    assert len(builder.whole([user("Once")]).prefix_ids) == 0
    assert text([user("Once: yes.\nTwice:")], []) == "Once: yes.\nTwice:"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "at least one mapping"),
        ("Hello", "must be a list"),
        ({"role": "user", "content": "Hello"}, "must be a list"),
        ([{"role": "robot", "content": "Hello"}], "message 1 has no role among"),
        ([user("Hello"), {"role": "user", "content": ["Hello"]}], "message 2 has no string"),
        ([{"role": "user", "content": "Hello", "name": "Ada"}], "'name'"),
        ([user("Hello"), said("Hello")], "the last message is the assistant's"),
        ([user(" \n")], "the last message is empty"),
    ],
)
def test_bad_conversations(mini: HomerModel, messages: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        mini.build_chat_prompt(messages)


def test_many_system_messages_without_a_middle(mini: HomerModel) -> None:
    with pytest.raises(InputError, match="none has a middle to compress"):
        mini.build_chat_prompt([*[system(TEXTS[0][:160])] * 40, user(QUESTION)])


def test_streamed_pieces_are_the_answer_and_cancelling_ends_it(mini: HomerModel) -> None:
    prompt = mini.build_chat_prompt([user(QUESTION)], [LONG])
    stream = mini.stream_prompt(prompt, max_new_tokens=24)
    pieces = list(stream)
    answer = stream.answer()
    assert answer == mini.ask(QUESTION, [LONG], max_new_tokens=24)
    assert "".join(pieces) == answer.text
    assert len(pieces) > 1
    early = mini.stream_prompt(prompt)
    early.cancel()
    assert list(early) == []
    assert (early.answer().finish_reason, early.answer().usage.kept_tokens) == ("cancelled", 0)
    late = mini.stream_prompt(prompt)
    first = next(late)
    late.cancel()
    assert late.answer().text == first
    assert late.answer().finish_reason == "cancelled"


def test_a_watcher_can_end_a_compression(mini: HomerModel) -> None:
    seen = []

    def watch(node: Any) -> None:
        seen.append(node.level)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mini.compress_prompt(mini.build_chat_prompt([user(QUESTION)], [LONG]), watch=watch)
    assert seen == [0, 0, 1]


def test_a_smaller_chunk_moves_more_of_the_conversation(mini: HomerModel) -> None:
    messages = [user(TEXTS[0][:500]), said("Noted."), user(QUESTION)]
    config = HomerConfig(max_chunk_len=256)
    assert len(mini.build_chat_prompt(messages, [LONG]).documents) == 1
    assert len(mini.build_chat_prompt(messages, [LONG], config=config).documents) == 2


def test_time_may_run_out_while_text_comes(mini: HomerModel) -> None:
    prompt = mini.build_prompt("What is the door code?", ["The door code is 48213."])
    stream = mini.stream_prompt(prompt, max_new_tokens=16)
    assert next(stream)
    with pytest.raises(TimeoutExceededError, match=r"timeout=1e-09"):
        stream.within(1e-9).answer()


@pytest.mark.parametrize("words", [20, 99, 100, 101, 104, 108, 109, 120, 4000])
def test_what_is_known_to_be_too_long_is_what_laying_it_out_finds(
    mini: HomerModel, words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, laid_out, whole = PromptBuilder(mini.tokenizer), list[int](), PromptBuilder.whole
    monkeypatch.setattr(PromptBuilder, "whole", lambda self, given: laid_out.append(1) or whole(self, given))
    limits = Limits(len(whole(builder, [user("word " * 100)])), 64)
    messages = [user("word " * words)]
    built, laid = build_conversation(builder, messages, (), limits), whole(builder, messages)
    assert (len(laid) <= limits.whole) == (len(built.context_ids) == len(laid.context_ids))
    assert bool(laid_out) == (words < 120)
