"""The load that a server is measured by: the same for equal seeds, counted as it is, and sent as a chat's turns."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from serving import running
from small import load_benchmark, save_small

from homer import HomerModel
from homer.backends.slots import Entry
from homer.generation.loop import generate_tokens
from homer.generation.sampling import Sampling
from homer_integrations.serve import ServeSettings
from tests.conftest import random_ids


@pytest.fixture(scope="module")
def load() -> ModuleType:
    return load_benchmark("load")


def test_equal_seeds_are_equal_loads_of_the_rate_asked_for(load: ModuleType) -> None:
    asked = load.Load(8, rate=5.0, seconds=60.0, drain=1.0, lengths=(20, 20, 200), max_tokens=4, document=50)
    due = load.arrivals(asked)
    assert due == load.arrivals(asked)
    assert due != load.arrivals(dataclasses.replace(asked, seed=1))
    assert 220 < len(due) < 380
    assert {each.client for each in due} == set(range(8))
    assert 0.5 < sum(each.length == 20 for each in due) / len(due) < 0.85
    assert max(each.turns for each in due) == 3
    texts = [text for each in due for text in each.documents]
    assert len(set(texts)) == len(texts)
    assert all(800 <= len("".join(each.documents)) < 1900 for each in due if each.length == 200)


def test_figures_are_of_what_was_done(load: ModuleType) -> None:
    records = [
        load.Record(0, 0, 10, due=1.0, status="done", first=n, end=n + 1.0, prompt_tokens=10, tokens=3, gaps=[0.5, 0.5])
        for n in (1.0, 2.0, 3.0)
    ]
    records += [load.Record(0, 0, 10, due=9.0), load.Record(0, 0, 10, due=2.0, status="status 500")]
    row = load.figures(records, 20.0)
    assert (row["requests"], row["done"], row["failed"], row["failure"]) == (5, 3, 1, "status 500")
    assert (row["first_s_p50"], row["first_s_p99"], row["token_ms_p50"], row["gap_ms_most"]) == (2.0, 3.0, 500.0, 500.0)
    assert row["requests_per_s"] == 3 / 5.0
    assert "3 of   5 done, 1 failed" in load.line(row)
    assert load.at_shares("x", []) == {}


async def test_a_chat_is_sent_with_all_that_was_said(load: ModuleType, tmp_path: Path) -> None:
    model = HomerModel.from_pretrained(save_small(tmp_path, window=1024), calibration=False)
    asked = load.Load(1, 20.0, 0.2, 30.0, (60,), max_tokens=6, chats=1.0, pause=0.01)
    sent: list[dict[str, Any]] = []
    with running(ServeSettings(model=model, served_name="served")) as server:
        body = load._body
        load._body = lambda *parts: sent.append(body(*parts)) or sent[-1]
        records, _ = await load.run(server.url, "served", asked)
    assert records
    assert [record.status for record in records] == ["done"] * len(records)
    assert all(record.tokens == 6 and record.prompt_tokens > 60 for record in records)
    last = max(sent, key=lambda body: len(body["messages"]))
    assert [message["role"] for message in last["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert last["documents"]
    inline = body("m", dataclasses.replace(asked, inline=True), load.arrivals(asked)[0], last["messages"])
    assert "documents" not in inline
    assert inline["messages"][0]["content"].endswith("What is remark 7?")


def test_rows_that_step_by_themselves_say_what_each_says_alone(tiny: HomerModel) -> None:
    slots = load_benchmark("serving", "serving_benchmark").Alone(tiny.decoder)
    caches = [tiny.compress(*random_ids(4, n, 6)) for n in (20, 90, 40)]
    slots.join([Entry(c.entries, c.logits, c.next_position, 9) for c in caches])
    said: list[list[int]] = [[], [], []]
    for _ in range(9):
        tokens = slots.logits.argmax(-1)
        for row, token in zip(said, tokens.tolist(), strict=True):
            row.append(token)
        slots.step(tokens)
        slots.join([slots.take(0)])  # a rest, after which it is behind the others
        slots.leave(0)  # and the last one moves to its place
    assert said == [list(generate_tokens(tiny.decoder, cache, Sampling(max_new_tokens=9))) for cache in caches]
