"""2,000 odd inputs by every way in: an answer or an error of ours, within seconds, and sources that are true."""

import asyncio
import datetime
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import save_small
from strategies import BODY, CONFIG, DOCUMENTS, GENERATION, IDS, JSON, JUNK, LONG_IDS, MESSAGES, TEXT, mostly

from homer import (
    Answer,
    CompactCache,
    Document,
    HomerConfig,
    HomerError,
    HomerModel,
    load_calibration,
    read_documents,
)
from homer_integrations.batch.files import read_questions
from homer_integrations.serve import ServeSettings
from homer_integrations.serve.app import create_app
from homer_integrations.serve.engine import Engine

pytestmark = pytest.mark.slow
MODELS: dict[str, HomerModel] = {}
SERVED: list[Any] = []
SAVED: list[bytes] = []  # a compact cache


def cases(count: int) -> Callable[[Any], Any]:
    """So many; the same each time, so that what guards main never fails by chance. None may take a minute."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=datetime.timedelta(seconds=60),
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def _small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = save_small(tmp_path_factory.mktemp("small"), layers=3, window=256, hidden=16)
    MODELS["small"] = HomerModel.from_pretrained(folder, calibration=False)
    MODELS["small"].compress([1], list(range(5, 30)), [3]).save(folder / "cache.safetensors")
    SAVED[:] = [(folder / "cache.safetensors").read_bytes()]
    chosen = ServeSettings(model=MODELS["small"], served_name="small")
    engine = Engine(chosen)
    with asyncio.Runner() as runner:
        SERVED[:] = [httpx.ASGITransport(create_app(engine, chosen)), runner]
        yield
        engine.close()


def check_sources(answer: Answer, documents: Any) -> None:
    """Every passage and span stands where it is said to stand, and counts add up."""
    texts = [d if isinstance(d, str) else d.text if isinstance(d, Document) else d["text"] for d in documents]
    assert len(answer.sources) == len(texts)
    for source in answer.sources:
        text = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in texts[source.index])
        assert source.kept <= source.tokens
        for passage in source.passages:
            assert text[passage.start : passage.end] == passage.text
            assert all(passage.start <= a < b <= passage.end for a, b in passage.spans)
    json.dumps(answer.to_dict(), allow_nan=False)


@cases(600)
@given(mostly(TEXT), DOCUMENTS, GENERATION, CONFIG)
def test_ask(question: Any, documents: Any, options: dict[str, Any], config: dict[str, Any]) -> None:
    try:
        answer = MODELS["small"].ask(question, documents, config=HomerConfig(**config), **options)
    except HomerError:
        return
    check_sources(answer, documents)


@cases(300)
@given(IDS, LONG_IDS, IDS, CONFIG, st.none() | mostly(st.lists(mostly(st.integers(1, 60)), max_size=4)))
def test_compress(prefix: Any, context: Any, suffix: Any, config: dict[str, Any], lens: Any) -> None:
    model = MODELS["small"]
    try:
        cache = model.compress(prefix, context, suffix, config=HomerConfig(**config), document_lens=lens)
    except HomerError:
        return
    assert len(cache) == cache.plan.final_len <= len(prefix) + len(context) + len(suffix)
    assert torch.isfinite(cache.logits).all()
    assert cache.kept_tokens.tolist() == sorted(set(cache.kept_tokens.tolist()))


@cases(100)
@given(IDS, LONG_IDS, IDS, st.integers(0, 80))
def test_encoding_first_is_the_same(prefix: Any, context: Any, suffix: Any, budget: int) -> None:
    model = MODELS["small"]
    try:
        found = model.compress_encoded(model.encode(context, prefix=prefix, suffix_budget=budget), suffix)
    except HomerError:
        return
    expected = model.compress(prefix, context, suffix, config=HomerConfig(suffix_budget=budget))
    assert found.kept_tokens.tolist() == expected.kept_tokens.tolist()


@cases(350)
@given(MESSAGES, DOCUMENTS, st.booleans())
def test_chat(messages: Any, documents: Any, first: bool) -> None:
    model = MODELS["small"]
    try:
        prompt = model.build_chat_prompt(messages, documents, documents_first=first)
        answer = model.stream_prompt(prompt, max_new_tokens=2).answer()
    except HomerError:
        return
    assert answer.usage.input_tokens == len(prompt)


@cases(250)
@given(BODY)
def test_server(body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=SERVED[0], base_url="http://localhost") as client:
            return await client.post("/v1/chat/completions", content=content, headers=headers)

    reply = SERVED[1].run(post())
    assert reply.status_code in (200, 400, 413, 422), reply.text
    if reply.status_code != 200:
        assert reply.json()["error"]["message"]


@cases(150)
@given(
    st.dictionaries(
        st.sampled_from("a.txt b.md c.csv d.json e.pdf f.html g.docx .h i.jpg sub/a.txt sub/.j/k.txt l".split()),
        st.one_of(st.binary(max_size=60), TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))),
        max_size=4,
    ),
    st.booleans(),
)
def test_files(files: dict[str, bytes], strict: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        said: list[str] = []
        try:
            documents = read_documents([folder], strict=strict, report=said.append)
        except HomerError:
            return
        assert {document["title"] for document in documents} <= set(files)


@cases(100)
@given(st.lists(st.one_of(JSON, st.fixed_dictionaries({"question": TEXT}, optional={"id": JSON})), max_size=3), TEXT)
def test_questions(rows: list[Any], rest: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "questions.jsonl"
        text = "".join(json.dumps(row) + "\n" for row in rows) + rest
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            found = read_questions(path)
        except HomerError:
            return
        assert len(found) == len([line for line in text.split("\n") if line.strip()])


@cases(100)
@given(st.data(), st.sampled_from([CompactCache.load, load_calibration]))
def test_damaged_files(data: st.DataObject, load: Callable[[Path], Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.safetensors"
        content = bytearray(SAVED[0])
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        changed = bytes(content[: data.draw(st.integers(0, len(content)))])
        if changed == SAVED[0]:
            return
        path.write_bytes(changed)
        with pytest.raises(HomerError):
            load(path)


@cases(50)
@given(st.dictionaries(st.sampled_from([*HomerConfig().to_dict(), "other"]), JUNK, max_size=3))
def test_settings(values: dict[str, Any]) -> None:
    try:
        config = HomerConfig.from_dict(values)
    except HomerError:
        return
    assert HomerConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
