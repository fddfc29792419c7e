"""What other models and tracers see of the documents chain: the stuff chain's text, and no marker of ours."""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda

import homer
from homer import HomerModel, InputError
from homer_integrations.langchain import ChatHomer, HomerLLM, create_homer_documents_chain
from homer_integrations.shared.marks import KEY, PLACE, make_mark, read_mark

FACT = "The door code for the northern archive is 48213."
QUESTION = "What is the door code for the northern archive?"
DOCUMENTS = [Document("Beans. " * 9, metadata={"title": "garden"}), Document(FACT, metadata={"source": "doors"})]
INPUTS = {"context": DOCUMENTS, "input": QUESTION}
BLOCKS = ChatPromptTemplate([("human", [{"type": "text", "text": "{context}"}, {"type": "text", "text": "{input}"}])])
FILTERED = "{{ context | replace('Beans', 'Peas') }}\n\nQuestion: {{ input }}"
PROMPTS: dict[str, Any] = {
    "system": ChatPromptTemplate([("system", "Answer from this.\n\n{context}"), ("human", "{input}")]),
    "human": ChatPromptTemplate([("human", "Answer from this.\n\n{context}\n\nQuestion: {input}")]),
    "string": PromptTemplate.from_template("Answer from this.\n\n{context}\n\nQuestion: {input}"),
    "blocks": BLOCKS,
    "filtered": PromptTemplate.from_template(FILTERED, template_format="jinja2"),
}


class Other(BaseChatModel):
    """A model of somebody else's, which takes no argument that it does not know."""

    seen: list[Any]

    @property
    def _llm_type(self) -> str:
        return "other"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None) -> ChatResult:
        self.seen.append([message.content for message in messages])
        return ChatResult(generations=[ChatGeneration(message=AIMessage("read"))])


class Broken(HomerModel):
    """Ours, on a day when it fails."""

    def stream_prompt(self, prompt: homer.Prompt, **options: Any) -> homer.AnswerStream:
        raise MemoryError


class Seen(BaseCallbackHandler):
    """All that tracers are told when something starts or ends."""

    def __init__(self) -> None:
        self.models: list[Any] = []
        self.rest: list[str] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.models.append([message.content for message in messages[0]])
        self.rest.append(repr((messages, kwargs)))

    def on_llm_start(self, serialized: Any, prompts: list[str], **kwargs: Any) -> None:
        self.models.append(prompts[0])
        self.rest.append(repr((prompts, kwargs)))

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.rest.append(repr(inputs))

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.rest.append(repr(outputs))


@pytest.fixture(params=PROMPTS)
def prompt(request: pytest.FixtureRequest) -> Iterator[Any]:
    return PROMPTS[request.param]


def stuffed(prompt: Any) -> list[Any]:
    other = Other(seen=[])
    create_stuff_documents_chain(other, prompt).invoke(INPUTS)
    (messages,) = other.seen
    assert FACT.lower() in str(messages).lower()
    return messages


@pytest.mark.parametrize("wrap", ["alone", "fallback", "deep", "configured", "mapped"])
async def test_another_model_reads_what_the_stuff_chain_sends(mini: HomerModel, prompt: Any, wrap: str) -> None:
    other = Other(seen=[])
    broken = ChatHomer(model=Broken(mini.model, mini.tokenizer, mini.config))
    llm: Any = {
        "alone": other,
        "fallback": broken.with_fallbacks([other]),
        "deep": broken.bind(temperature=0).with_retry(stop_after_attempt=1).with_fallbacks([broken, other]),
        "configured": broken.configurable_alternatives(ConfigurableField(id="m"), other=other).with_config(
            configurable={"m": "other"}
        ),
        "mapped": RunnableLambda(lambda value: value.to_messages()) | other,
    }[wrap]
    chain = create_homer_documents_chain(llm, prompt)
    assert chain.invoke(INPUTS) == "read"
    assert await chain.ainvoke(INPUTS) == "read"
    assert "".join(chain.stream(INPUTS)) == "read"
    assert other.seen == [stuffed(prompt)] * 3


def test_another_string_model_reads_it_too() -> None:
    class Spy(FakeListLLM):
        def _call(self, prompt: str, *args: Any, **kwargs: Any) -> str:
            assert not set(kwargs) - {"stop"}
            return prompt

    spy = Spy(responses=[])
    template = PROMPTS["string"]
    expected = create_stuff_documents_chain(spy, template).invoke(INPUTS)
    assert create_homer_documents_chain(spy, template).invoke(INPUTS) == expected
    failing = HomerLLM(model="no-such-org/no-such-model").with_fallbacks([spy])
    assert create_homer_documents_chain(failing, template).invoke(INPUTS) == expected


@pytest.mark.parametrize("kind", [ChatHomer, HomerLLM])
def test_tracers_see_what_the_model_reads(kind: Any, prompt: Any) -> None:
    seen = Seen()
    llm = kind(max_tokens=8)
    create_homer_documents_chain(llm, prompt).invoke(INPUTS, {"callbacks": [seen]})
    (ours,), expected = seen.models, Seen()
    create_stuff_documents_chain(llm, prompt).invoke(INPUTS, {"callbacks": [expected]})
    assert [ours] == expected.models
    assert not [told for told in seen.rest if PLACE in told]


@pytest.mark.parametrize("kind", [ChatHomer, HomerLLM])
@pytest.mark.parametrize("name", ["system", "human", "string", "blocks"])
def test_ours_still_know_the_documents(kind: Any, name: str) -> None:
    told: list[Any] = []

    class Told(BaseCallbackHandler):
        def on_llm_end(self, response: Any, **_: Any) -> None:
            generation = response.generations[0][0]
            message = getattr(generation, "message", None)
            told.append(message.response_metadata if message else generation.generation_info)

    chain = create_homer_documents_chain(kind(max_tokens=16), PROMPTS[name])
    assert chain.invoke(INPUTS, {"callbacks": [Told()]}).rstrip(".") == "48213"
    sources = {source["index"]: source for source in told[0]["sources"]}
    assert [sources[n]["title"] for n in (0, 1)] == ["garden", "doors"]
    assert sources[1]["spans"] == [[0, len(FACT)]]


def test_documents_that_stand_in_the_prompt_twice_are_refused() -> None:
    chain = create_homer_documents_chain(ChatHomer(), PromptTemplate.from_template("{context} {context} {input}"))
    with pytest.raises(InputError, match="puts the documents 2 times"):
        chain.invoke(INPUTS)


def test_no_documents_and_documents_of_both_roads() -> None:
    chain = create_homer_documents_chain(ChatHomer(max_tokens=4), PROMPTS["human"])
    assert chain.invoke({"context": [], "input": QUESTION})
    bound = create_homer_documents_chain(ChatHomer(max_tokens=4).bind(documents=["Else."]), PROMPTS["human"])
    with pytest.raises(InputError, match="documents= holds 1 documents and the prompt holds 2 others"):
        bound.invoke(INPUTS)


LAID_OUT = (homer.Document("one", "a", "<", ">"), homer.Document("two", None, "", ""))


def test_marks_cut_a_prompt_where_its_documents_stand() -> None:
    mark = make_mark("say <one>two now", f"say {PLACE} now", LAID_OUT)
    assert read_mark("say <one>two now", mark) == (f"say {PLACE} now", LAID_OUT)
    changed = make_mark("say <ONE>TWO now", f"say {PLACE} now", LAID_OUT)
    assert read_mark("say <ONE>TWO now", changed) == (f"say {PLACE} now", (homer.Document("<ONE>TWO", None, "", ""),))
    assert make_mark("say  now", f"say {PLACE} now", ()) is None
    assert make_mark("at 10:01 <one>two", f"at 10:02 {PLACE}", LAID_OUT) is None


@pytest.mark.parametrize(
    "mark",
    [
        {}, {"sha256": "0", "places": []}, [], {"sha256": None},
        *({"places": places} for places in ([], None, [[0]], [[0, 1, 2, 3, 4]], [["a", 1, 2, 3, None]], 3,
                                            [[0, 1, 2, 3, None], [9, 9, 9, 9, None]])),
    ],
)  # fmt: skip
def test_marks_from_outside_lose_nothing(mark: Any) -> None:
    """What is no mark of the very text leaves a prompt like any other."""
    text = f"Answer from this.\n\n{FACT}\n\nQuestion: {QUESTION}"
    whole = make_mark(text, f"{PLACE}{text[8:]}", (homer.Document(text[:8], before="", after=""),))
    given = mark | {"sha256": mark.get("sha256", whole["sha256"])} if isinstance(mark, dict) else mark
    assert read_mark(text, given) is None
    message = HumanMessage(text, additional_kwargs={KEY: given})
    assert ChatHomer(max_tokens=16).invoke([message]).text.rstrip(".") == "48213"


def test_a_marked_prompt_that_was_changed_on_its_way_is_read_as_it_is() -> None:
    def shorten(value: Any) -> list[BaseMessage]:
        (message,) = value.to_messages()
        assert KEY in message.additional_kwargs
        return [message.model_copy(update={"content": f"Mind: {message.content}"})]

    chain = create_homer_documents_chain(RunnableLambda(shorten) | ChatHomer(max_tokens=16), PROMPTS["human"])
    assert chain.invoke(INPUTS).rstrip(".") == "48213"
