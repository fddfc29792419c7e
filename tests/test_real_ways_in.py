"""A real model through everything that a user calls: the answer to a needle, by each of them."""

import json
from typing import Any

import httpx
import pytest
import torch
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from real_model import passages, real, smollm2
from serving import running

from homer_integrations.langchain import ChatHomer
from homer_integrations.llama_index import HomerLLM, HomerSynthesizer
from homer_integrations.serve import ServeSettings

pytestmark = pytest.mark.real
SETTINGS: dict[str, Any] = {"max_chunk_len": 2048, "target_len": 512, "max_tokens": 24}


@pytest.fixture(scope="module")
def case() -> Any:
    return real().needles(passages(), 1, 55)[0]


def test_what_fits_is_answered_as_by_plain_transformers() -> None:
    model = smollm2()
    documents = [
        "The door code for the boathouse is 4821. The boathouse was built in 1931.",
        "Keys are with the warden.",
    ]
    prompt = model.build_prompt("What is the door code for the boathouse?", documents)
    ids = torch.cat([prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids])[None]
    mask = torch.ones_like(ids)
    plain: Any = model.model.generate
    expected = plain(input_ids=ids, attention_mask=mask, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :].tolist()
    found = model.generate(model.compress_prompt(prompt), 24).token_ids
    assert found == expected[: len(found)]
    assert "4821" in model.tokenizer.decode(found)


def test_chat(case: Any) -> None:
    model = smollm2()
    chat = ChatHomer(model=model, **SETTINGS)
    documents = [Document(page_content=document["text"]) for document in case.documents]
    message = chat.invoke(case.question, documents=documents)
    assert case.answer in message.content
    assert message.usage_metadata["input_tokens"] > model.window
    assert message.response_metadata["kept_tokens"] <= SETTINGS["target_len"]
    pieces = [chunk.content for chunk in chat.stream(case.question, documents=documents)]
    assert "".join(pieces) == message.content
    assert len([piece for piece in pieces if piece]) > 3


def test_synthesizer(case: Any) -> None:
    model = smollm2()
    synthesizer = HomerSynthesizer(llm=HomerLLM(model=model, **SETTINGS))
    nodes = [NodeWithScore(node=TextNode(text=document["text"]), score=1.0) for document in case.documents]
    assert case.answer in str(synthesizer.synthesize(case.question, nodes))


def test_server(case: Any) -> None:
    model = smollm2()
    messages = [{"role": "user", "content": case.question}]
    body = {"model": "smollm2", "messages": messages, "documents": case.documents, "max_tokens": 24}
    with running(ServeSettings(model=model, served_name="smollm2", **SETTINGS)) as server:
        url = f"{server.url}/chat/completions"
        whole = httpx.post(url, json=body, timeout=600).json()
        assert case.answer in whole["choices"][0]["message"]["content"]
        assert whole["usage"]["prompt_tokens"] > model.window
        with httpx.stream("POST", url, json=body | {"stream": True}, timeout=600) as stream:
            events = [line.removeprefix("data: ") for line in stream.iter_lines() if line.startswith("data: {")]
    deltas = [json.loads(event)["choices"] for event in events]
    text = "".join(choices[0]["delta"].get("content") or "" for choices in deltas if choices)
    assert text == whole["choices"][0]["message"]["content"]
