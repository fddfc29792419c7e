"""What Ray is started with; no cluster is started here."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from homer_integrations.batch import Batch, run_batch
from homer_integrations.serve import ServeSettings

cluster = pytest.importorskip("homer_integrations.serve.cluster")
data = pytest.importorskip("ray.data")


class StartedError(Exception):
    """Ray would start now."""


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], str | None]:
    """What says whether a Ray that some work starts reports its use."""

    def start(*_: Any, **__: Any) -> None:
        raise StartedError

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", start)
    monkeypatch.setattr("ray.data.from_items", start)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("RAY_USAGE_STATS_ENABLED", None)

    def found(work: Callable[[], Any]) -> str | None:
        with pytest.raises(StartedError):
            work()
        return os.environ.get("RAY_USAGE_STATS_ENABLED")

    return found


def test_a_cluster_reports_nothing_unless_it_is_told_to(reports: Callable[[Callable[[], Any]], str | None]) -> None:
    def start() -> None:
        cluster.start_cluster(ServeSettings(), "127.0.0.1", 0)

    assert reports(start) == "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "1"
    assert reports(start) == "1"


def test_a_batch_reports_nothing(reports: Callable[[Callable[[], Any]], str | None], tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Why?", "documents": ["So."]}\n')
    batch = Batch({"model": "mini"})
    assert reports(lambda: run_batch(batch, questions, tmp_path / "answers.jsonl", 1)) == "0"
