"""A cache of answers tells apart all that changes an answer, and nothing else, in this process and in the next."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from small import save_small

import homer
from homer import HomerConfig, HomerModel, InputError, StateStore
from homer_integrations.langchain import ChatHomer, HomerLLM, create_homer_documents_chain
from homer_integrations.shared.loading import forget_shared_models, shared_model

QUESTION = "What is the door code for the northern archive?"
FACTS = [f"The door code for the northern archive is {code}." for code in ("48213", "77120")]
CHAT_PROMPT = ChatPromptTemplate.from_messages([("system", "Answer.\n\n{context}"), ("human", "{input}")])
PROMPTS = {ChatHomer: CHAT_PROMPT, HomerLLM: PromptTemplate.from_template("{context}\n\nQuestion: {input}")}


@pytest.fixture(autouse=True)
def cache() -> Iterator[InMemoryCache]:
    cache = InMemoryCache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


def text(answer: Any) -> str:
    return str(getattr(answer, "text", answer)).strip().rstrip(".")


class Page:
    """A document of one's own class, of which Python knows an address only."""

    def __init__(self, page_content: str, metadata: Any = None) -> None:
        self.page_content, self.metadata = page_content, metadata


FORMS: dict[str, Callable[[str], Any]] = {
    "strings": lambda fact: [fact],
    "mappings": lambda fact: [{"text": fact, "title": "a"}],
    "LangChain's": lambda fact: [Document(fact)],
    "homer's": lambda fact: (homer.Document(fact),),
    "one's own": lambda fact: [Page(fact)],
    "a generator": lambda fact: (part for part in [fact]),
    "an iterator": lambda fact: iter([fact]),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kind", [ChatHomer, HomerLLM])
async def test_documents_are_told_apart_by_their_content(kind: Any, form: Any, cache: InMemoryCache) -> None:
    llm = kind(max_tokens=16)
    assert [text(llm.invoke(QUESTION, documents=form(fact))) for fact in FACTS] == ["48213", "77120"]
    assert [text(llm.invoke(QUESTION, documents=form(fact))) for fact in FACTS] == ["48213", "77120"]
    assert [text(await llm.ainvoke(QUESTION, documents=form(fact))) for fact in FACTS] == ["48213", "77120"]
    assert len(cache._cache) == 2
    assert text(llm.invoke(QUESTION)) not in ("48213", "77120")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_documents_in_messages_are_told_apart_too(form: Any, cache: InMemoryCache) -> None:
    for _ in range(2):
        messages = [HumanMessage(QUESTION, additional_kwargs={"documents": form(fact)}) for fact in FACTS]
        assert [text(ChatHomer(max_tokens=16).invoke([message])) for message in messages] == ["48213", "77120"]
    assert len(cache._cache) == 2


def test_all_roads_of_the_same_documents_are_one_question(cache: InMemoryCache) -> None:
    fact = FACTS[0]
    chat = ChatHomer(max_tokens=16)
    block = {"type": "text-plain", "text": fact, "mime_type": "text/plain"}
    chat.invoke(QUESTION, documents=[fact])
    chat.invoke([HumanMessage(QUESTION, id="17", name="Ada", response_metadata={"seen": "today"})], documents=[fact])
    chat.invoke([HumanMessage([{"type": "text", "text": QUESTION}, block])])
    chat.bind(documents=(part for part in [fact])).invoke(QUESTION)
    assert len(cache._cache) == 1


def test_what_earlier_answers_told_of_themselves_is_no_part_of_a_question(cache: InMemoryCache) -> None:
    chat = ChatHomer(max_tokens=4)
    for _ in range(2):  # the second answer comes from the cache, which notes so in its usage
        said = chat.invoke("Hello")
        chat.invoke([HumanMessage("Hello"), said, HumanMessage("And now?")])
    chat.invoke([HumanMessage("Hello"), AIMessage(said.text), HumanMessage("And now?")])
    assert len(cache._cache) == 2


def test_a_generator_is_read_once_and_serves_every_call(cache: InMemoryCache) -> None:
    for kind in (ChatHomer, HomerLLM):
        for wrapped in (kind(max_tokens=16), kind(max_tokens=16, cache=False)):
            bound = wrapped.bind(documents=(fact for fact in FACTS[:1]))
            assert [text(bound.invoke(QUESTION)) for _ in range(3)] == ["48213"] * 3
            both = wrapped.batch([QUESTION, f"{QUESTION} "], documents=(fact for fact in FACTS[1:]))
            assert list(map(text, both)) == ["77120"] * 2
        with pytest.raises(InputError, match="a map with 0 documents left"):
            kind(max_tokens=16).bind(documents=drained(map(str, FACTS))).invoke(QUESTION)
        with pytest.raises(InputError, match="a generator with 0 documents left"):
            kind(max_tokens=16, cache=False).invoke(QUESTION, documents=drained(fact for fact in FACTS))


def drained(iterator: Iterator[str]) -> Iterator[str]:
    assert len(list(iterator)) == 2
    return iterator


CHANGES: dict[str, dict[str, Any]] = {
    "max_tokens": {"max_tokens": 2},
    "temperature": {"temperature": 1.0, "seed": 1},
    "seed": {"temperature": 1.0, "seed": 2},
    "top_k": {"temperature": 1.0, "seed": 1, "top_k": 5},
    "top_p": {"temperature": 1.0, "seed": 1, "top_p": 0.5},
    "min_p": {"temperature": 1.0, "seed": 1, "min_p": 0.5},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "stop": {"stop": ["8"]},
    "trace": {"trace": True},
    "max_chunk_len": {"max_chunk_len": 300},
    "target_len": {"target_len": 200},
    "layers_warmup": {"layers_warmup": 2},
    "max_initial_chunk_len": {"max_initial_chunk_len": 100},
    "refresh_suffix": {"refresh_suffix": False},
    "suffix_budget": {"suffix_budget": 100},
    "significance": {"significance": "paper"},
}


@pytest.mark.parametrize("kind", [ChatHomer, HomerLLM])
@pytest.mark.parametrize("how", ["at construction", "per call"])
def test_every_setting_that_changes_an_answer_is_told_apart(mini: HomerModel, kind: Any, how: str) -> None:
    keys = [kind(model=mini)._key(None, {})]
    for change in CHANGES.values():
        keys.append(kind(model=mini, **change)._key(None, {}) if how[0] == "a" else kind(model=mini)._key(None, change))
    assert len(set(keys)) == 1 + len(CHANGES)
    assert kind(model=mini)._key(["8"], {}) == kind(model=mini, stop="8")._key(None, {})


@pytest.mark.parametrize("kind", [ChatHomer, HomerLLM])
def test_what_changes_no_answer_is_not_told_apart(mini: HomerModel, kind: Any, tmp_path: Path) -> None:
    plain = kind(model=mini)._key(None, {})
    for same in ({"timeout": 9.0}, {"temperature": 0}, {"seed": 4}, {"top_p": None}, {"stop": []}, {"documents": []}):
        assert kind(model=mini)._key(None, same) == plain, same
    for same in ({"max_retries": 3}, {"api_key": "x"}, {"tags": ["a"]}, {"metadata": {"a": 1}}, {"verbose": True}):
        assert kind(model=mini, **same)._key(None, {}) == plain, same
    assert kind(model=mini, max_tokens=5)._key(None, {}) == kind(model=mini)._key(None, {"max_new_tokens": 5})
    stores = [StateStore(), StateStore(), StateStore(tmp_path / "a"), str(tmp_path / "b"), "memory"]
    assert {kind(model=mini, reuse=store)._key(None, {}) for store in stores} != {plain}
    assert len({kind(model=mini, reuse=store)._key(None, {}) for store in stores}) == 1


def test_models_are_told_apart_by_all_they_answer_by(mini: HomerModel) -> None:
    tokenizer, calibration = mini.tokenizer, mini.calibration
    assert calibration is not None
    another = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    another.chat_template = f"{another.chat_template} "
    models = [
        HomerModel(mini.model, tokenizer, mini.config, calibration),
        HomerModel(mini.model, tokenizer, HomerConfig(max_chunk_len=300), calibration),
        HomerModel(mini.model, tokenizer, mini.config, None),
        HomerModel(mini.model, tokenizer, mini.config, calibration.bias + 1),
        HomerModel(mini.model, another, mini.config, calibration),
    ]
    assert len({ChatHomer(model=model)._key(None, {}) for model in models}) == len(models)
    again = HomerModel(mini.model, tokenizer, mini.config, calibration)
    assert ChatHomer(model=again)._key(None, {}) == ChatHomer(model=models[0])._key(None, {})
    tokenizer("a b", padding="max_length", max_length=8, truncation=True)
    once_more = HomerModel(mini.model, tokenizer, mini.config, calibration)
    assert ChatHomer(model=once_more)._key(None, {}) == ChatHomer(model=models[0])._key(None, {})


def test_a_folder_that_holds_another_model_now_is_told_apart(tmp_path: Path, cache: InMemoryCache) -> None:
    keys = []
    for scale in (1.0, 0.5):
        model = shared_model(save_small(tmp_path / "model"), {}).model
        model.get_input_embeddings().weight.data *= scale
        model.save_pretrained(tmp_path / "model")
        forget_shared_models()
        keys.append(ChatHomer(model=str(tmp_path / "model"))._key(None, {}))
    forget_shared_models()
    assert keys[0] != keys[1]


@pytest.mark.parametrize("kind", [ChatHomer, HomerLLM])
def test_two_models_of_one_name_answer_for_themselves(kind: Any, mini: HomerModel, cache: InMemoryCache) -> None:
    long = [FACTS[0] * 150]
    wide = kind(model=mini, max_tokens=2)
    narrow = kind(model=HomerModel(mini.model, mini.tokenizer, HomerConfig(target_len=200)), max_tokens=2)
    kept = []
    for llm in (wide, narrow):
        told = llm.generate_prompt([PROMPTS[kind].invoke({"context": "", "input": QUESTION})], documents=long)
        generation = told.generations[0][0]
        info = generation.message.response_metadata if kind is ChatHomer else generation.generation_info
        kept.append(info["kept_tokens"])
    assert kept[1] <= 200 < kept[0]


def test_a_significance_of_ones_own_is_answered_anew(mini: HomerModel, cache: InMemoryCache) -> None:
    """Nothing tells two functions apart in another process, so their answers are not kept."""

    def newest(observation: homer.Observation) -> torch.Tensor:
        return observation.positions.float()

    for kind in (ChatHomer, HomerLLM):
        kind(model=mini, max_tokens=2, significance=lambda o: newest(o)).invoke(QUESTION, documents=FACTS[:1])
    assert len(cache._cache) == 0


@pytest.mark.parametrize("kind", [ChatHomer, HomerLLM])
async def test_chains_find_each_others_answers(kind: Any, cache: InMemoryCache) -> None:
    def chain() -> Any:
        return create_homer_documents_chain(kind(max_tokens=16), PROMPTS[kind])

    for _ in range(2):
        inputs = [{"context": [Document(fact)], "input": QUESTION} for fact in FACTS]
        assert [text(chain().invoke(given)) for given in inputs] == ["48213", "77120"]
        assert [text(await chain().ainvoke(given)) for given in inputs] == ["48213", "77120"]
    assert len(cache._cache) == 2
    halves = FACTS[0][:20], FACTS[0][20:]  # the same text, other documents, and so other sources
    separated = create_homer_documents_chain(kind(max_tokens=16), PROMPTS[kind], document_separator="")
    separated.invoke({"context": [Document(half) for half in halves], "input": QUESTION})
    assert len(cache._cache) == 3


def test_a_place_of_ones_own_is_no_part_of_a_question(cache: InMemoryCache) -> None:
    chat = ChatHomer(max_tokens=16)
    for place in ("<<here>>", "[[there]]"):
        assert text(chat.invoke(f"{place}Question: {QUESTION}", documents=FACTS[:1], place=place)) == "48213"
    assert len(cache._cache) == 1
    with pytest.raises(InputError, match="stands 2 times"):
        chat.invoke("<<here>> <<here>> Why?", documents=FACTS[:1], place="<<here>>")


class SQLite(BaseCache):
    """A cache in a file, as LangChain's community has it."""

    def __init__(self, path: str) -> None:
        self._base = sqlite3.connect(path, check_same_thread=False)
        self._base.execute("create table if not exists answers (prompt text, llm text, answer text)")
        self.hits = 0

    def lookup(self, prompt: str, llm_string: str) -> Any:
        found = self._base.execute("select answer from answers where prompt = ? and llm = ?", (prompt, llm_string))
        rows = [loads(row[0], allowed_objects="core") for row in found]
        self.hits += len(rows)
        return rows or None

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        for generation in return_val:
            self._base.execute("insert into answers values (?, ?, ?)", (prompt, llm_string, dumps(generation)))
        self._base.commit()

    def clear(self, **kwargs: Any) -> None:
        self._base.execute("delete from answers")


def ask_everything(path: str) -> dict[str, Any]:
    """Every way to ask, with a cache in a file; run in two processes."""
    kept = SQLite(path)
    set_llm_cache(kept)
    answers = []
    for kind, prompt in PROMPTS.items():
        for llm in (kind(max_tokens=8), kind(max_tokens=8, reuse=StateStore())):
            for given in FORMS.values():
                answers.append(text(llm.invoke(QUESTION, documents=given(FACTS[0]))))
            chain = create_homer_documents_chain(llm, prompt)
            answers.append(text(chain.invoke({"context": [Document(FACTS[0])], "input": QUESTION})))
    set_llm_cache(None)
    return {"hits": kept.hits, "answers": answers}


def test_another_process_finds_all_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    first = ask_everything(str(path))
    assert set(first["answers"]) == {"48213"}
    source = f"import json, test_langchain_cache as t; print(json.dumps(t.ask_everything({str(path)!r})))"
    tests = Path(__file__).parent
    folders = os.pathsep.join(map(str, (Path(homer.__file__).parents[1], tests.parent, tests)))
    ran = subprocess.run(
        [sys.executable, "-c", source], env=os.environ | {"PYTHONPATH": folders}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    again = json.loads(ran.stdout.splitlines()[-1])
    assert again == {"hits": len(first["answers"]), "answers": first["answers"]}


def test_shared_models_are_told_apart_by_what_their_options_hold() -> None:
    """A long tensor is printed with dots in it, and an address may be taken by another object."""
    forget_shared_models()
    bias = shared_model("mini", {}).calibration.bias
    zeros, ones = (torch.full(bias.shape, value) for value in (0.0, 1.0))
    ones[0, 0] = ones[-1, -1] = zeros[0, 0] = zeros[-1, -1] = 0.5
    models = [shared_model("mini", {"calibration": given}) for given in (zeros, ones, zeros.clone())]
    assert models[0] is models[2]
    assert models[0] is not models[1]
    forget_shared_models()


def test_a_trace_shows_settings_and_no_addresses(mini: HomerModel) -> None:
    told = ChatHomer(
        model=mini, reuse=StateStore(), significance=text, calibration=SimpleNamespace()
    )._identifying_params
    assert json.loads(json.dumps(told)) == {
        "model": mini.name,
        "fingerprint": mini.decoder.fingerprint,
        "reuse": "StateStore",
        "significance": "text",
        "calibration": "SimpleNamespace",
    }
