"""Copies of a model on several devices: how they are made, and what is refused."""

import copy
import dataclasses
import os
import threading
from typing import Any

import pytest
import torch
from conftest import random_ids, tiny_llama
from small import assert_same
from torch import nn

from homer import Compressor, ConfigError, HomerConfig, HomerModel, StateStore, UnsupportedModelError
from homer.backends.base import Decoder
from homer.backends.devices import Replicas, check_copies, copy_to, deal, settle_devices
from homer.backends.fused import make_decoder
from homer.demo import DOCUMENTS
from homer.text.files import read_documents

GPUS = torch.cuda.device_count()
QUESTION = "What is the maximum fill level of the nitrogen dewar?"


@pytest.fixture(scope="module")
def one(small: HomerModel) -> HomerModel:
    small.config = dataclasses.replace(small.config, significance="question")
    return small


@pytest.fixture(scope="module")
def several(one: HomerModel) -> HomerModel:
    return HomerModel(one.model, one.tokenizer, one.config, one.calibration, devices=["cpu", "cpu"])


def test_a_model_is_loaded_once_for_each_device(mini: HomerModel) -> None:
    several = HomerModel.from_pretrained("mini", devices=["cpu", "cpu"])
    assert several._replicas is not None
    assert several._replicas.devices == (torch.device("cpu"),) * 2
    parts = random_ids(8, 900, 12, vocabulary=4000)
    config = HomerConfig(max_chunk_len=256, target_len=128)
    ours, theirs = (model.compress(*parts, config=config) for model in (several, mini))
    assert ours.config.significance == "standardized"
    assert_same(ours, theirs)


def test_questions_get_the_same_answers(several: HomerModel, one: HomerModel) -> None:
    documents = read_documents([DOCUMENTS])[:2]
    ours, theirs = (model.compress_prompt(model.build_prompt(QUESTION, documents)) for model in (several, one))
    assert ours.plan.height > 1
    assert ours.config.significance == "question"
    assert_same(ours, theirs)


def test_conversations_get_the_same_answers(several: HomerModel, one: HomerModel) -> None:
    documents = read_documents([DOCUMENTS])[:2]
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]
    chat = [*history, {"role": "user", "content": QUESTION}]
    prompts = [model.build_chat_prompt(chat, documents) for model in (several, one)]
    answers = [m.stream_prompt(p, max_new_tokens=8).answer() for m, p in zip((several, one), prompts, strict=True)]
    assert answers[0].text == answers[1].text
    assert answers[0].usage == answers[1].usage


def test_a_prompt_pauses_where_it_was_asked_for(several: HomerModel) -> None:
    prompt = several.build_prompt(QUESTION, read_documents([DOCUMENTS])[:1])
    threads: list[int] = []

    def tick() -> None:
        threads.append(threading.get_ident())
        if len(threads) == 3:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        several.compress_prompt(prompt, tick=tick)
    del threads[:]
    with pytest.raises(KeyError, match="enough"):
        several.compress_prompt(prompt, tick=tick, store=StateStore())
    assert set(threads) == {threading.get_ident()}


def test_encoded_leaves_are_the_same(several: HomerModel, one: HomerModel) -> None:
    documents = read_documents([DOCUMENTS])[:2]
    store = StateStore()
    ours, theirs = (model.encode(documents, align="documents") for model in (several, one))
    kept = several.encode(documents, align="documents", store=store)
    again = several.encode(documents, align="documents", store=store)
    assert again.reused_tokens == len(again.context_ids)
    assert kept.reused_tokens == 0
    for leaf, other in zip(ours.leaves, theirs.leaves, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(leaf.tensors(), other.tensors(), strict=True))
    asked = [model.build_prompt(QUESTION, documents).suffix_ids for model in (several, one)]
    assert_same(several.compress_encoded(ours, asked[0]), one.compress_encoded(theirs, asked[1]))


def test_looking_at_documents_is_the_same(several: HomerModel, one: HomerModel) -> None:
    documents = read_documents([DOCUMENTS])[:3]
    scores = [Compressor(model).score(QUESTION, documents) for model in (several, one)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": [0, 1][GPUS:] or [GPUS]}, rf"sees {GPUS} of that kind"),
        ({"devices": ["cpu", f"cuda:{GPUS}"]}, rf"sees {GPUS} of that kind"),
        ({"devices": []}, r"devices is empty: give a list such as \[0, 1\]"),
        ({"devices": 1}, "devices=1 is no list"),
        ({"devices": "cpu,"}, "is none"),
        ({"devices": ["cpu", "nowhere"]}, "is none"),
        ({"devices": ["cpu", None]}, "holds None"),
        ({"devices": ["cpu", True]}, "is none"),
        ({"devices": ["cpu", "cpu"], "device": "cpu"}, "device='cpu' are given: leave one of them out"),
        ({"devices": ["cpu", "cpu"], "device_map": "auto"}, "device_map='auto' are given"),
        ({"devices": "auto", "device_map": {"": "cpu"}}, "leave one of them out"),
    ],
)
def test_devices_that_do_not_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HomerModel.from_pretrained("mini", **options)


def test_auto_is_all_gpus_of_the_host() -> None:
    found = settle_devices("auto", torch.device("cpu"))
    assert found == (torch.device("cpu"),)
    assert len(settle_devices("auto")) == max(1, GPUS)
    assert settle_devices(None) == ()
    assert settle_devices("cpu, cpu") == (torch.device("cpu"),) * 2  # as on a command line
    assert HomerModel(tiny_llama(), devices=["cpu"])._replicas is None


def test_a_model_must_lie_on_the_first_device() -> None:
    with pytest.raises(ConfigError, match="begin with meta, but the model lies on cpu"):
        HomerModel(tiny_llama(), devices=["meta", "cpu"])


def test_quantized_and_spread_models_are_not_copied() -> None:
    settings = {"load_in_8bit": True}
    with pytest.raises(UnsupportedModelError, match="plain weights that fit one, and its weights are to be quantized"):
        HomerModel.from_pretrained("mini", devices=["cpu", "cpu"], quantization_config=settings)
    model = tiny_llama()
    model.is_quantized = True
    with pytest.raises(UnsupportedModelError, match="its weights are quantized"):
        HomerModel(model, devices=["cpu", "cpu"])
    model = tiny_llama()
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(64, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match=r"quantized \(integers\)"):
        check_copies(model)
    model = tiny_llama()
    model.lm_head.to("meta")
    with pytest.raises(UnsupportedModelError, match="lie on 2 devices"):
        check_copies(model)
    model = tiny_llama()
    model.model.layers[0]._hf_hook = object()
    with pytest.raises(UnsupportedModelError, match="carry hooks"):
        check_copies(model)


def test_a_copy_has_weights_of_its_own_where_it_lies_elsewhere() -> None:
    model = tiny_llama()
    there, here = copy_to(model, torch.device("meta")), copy_to(model, torch.device("cpu"))
    assert {weight.device.type for weight in (*there.parameters(), *there.buffers())} == {"meta"}
    assert {weight.device.type for weight in (*model.parameters(), *model.buffers())} == {"cpu"}
    pairs = zip(model.parameters(), here.parameters(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert here.config is not model.config


def decoders(count: int) -> list[Decoder]:
    model = tiny_llama()
    return [make_decoder(copy_to(model, torch.device("cpu")), None) for _ in range(count)]


def test_calls_keep_their_order_and_errors_end_them() -> None:
    pair = Replicas(decoders(2))
    names: set[str] = set()

    def call(number: int) -> Any:
        def run(decoder: Decoder) -> tuple[int, int]:
            names.add(threading.current_thread().name)
            if number == 20:
                raise KeyError(number)
            return number, pair.decoders.index(decoder)

        return run

    calls = [call(number) for number in range(12)]
    assert list(deal(calls, pair.decoders[0], pair)) == [(number, number % 2) for number in range(12)]
    assert list(deal(calls, pair.decoders[1], None)) == [(number, 1) for number in range(12)]
    assert {name for name in names if name.startswith("homer-cpu")}
    with pytest.raises(KeyError):
        list(pair.each([call(number) for number in range(30)]))
    dealt = pair.each(iter(calls))
    assert next(dealt) == (0, 0)
    dealt.close()  # nobody reads on


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    pair = Replicas(decoders(2), threads=True)
    assert pair.runs()(0, lambda: 1).result(10) == 1
    child = os.fork()
    if not child:
        os._exit(0 if pair.runs()(1, lambda: 2).result(10) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_model_given_stays_as_it_is() -> None:
    model = tiny_llama()
    state = copy.deepcopy(model.state_dict())
    several = HomerModel(model, config=HomerConfig(32, 32, 2), devices=["cpu", "cpu"])
    several.compress(*random_ids(4, 300, 5))
    assert all(torch.equal(state[name], weight) for name, weight in model.state_dict().items())
    assert all(weight.requires_grad for weight in model.parameters())
