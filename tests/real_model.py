"""The real model that `make real` fetches, and passages to ask it about."""

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small import load_benchmark

from homer import HomerModel, read_documents
from homer.demo import DOCUMENTS

ROOT = Path(__file__).parents[1]
FILE = ROOT / ".real" / "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = ROOT.parent / "shared" / "qa"
Sets = dict[str, tuple[list[dict[str, str]], list[tuple[str, list[str], int]]]]


@functools.cache
def real() -> ModuleType:
    return load_benchmark("real")


@functools.cache
def smollm2() -> HomerModel:
    """Measured once for every checkout, which takes a minute or two."""
    if not FILE.is_file():
        pytest.skip(f"no {FILE.relative_to(ROOT)}: run `make real`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOMER_CALIBRATIONS", str(FILE.parent / "calibrations"))
        model = HomerModel.from_pretrained(FILE)  # 16 bits are slow on a CPU without instructions for them
        model.plan(10, 2 * model.window, 10)
    return model


@functools.cache
def questions() -> Sets:
    """Real questions and their passages, where they lie beside the repository."""
    if not QUESTIONS.is_dir():
        pytest.skip("no ../shared/qa beside the repository")
    return real().load(QUESTIONS)


@functools.cache
def passages() -> Sets:
    """Paragraphs to hide something in: real ones where there are any, else the demo's."""
    if QUESTIONS.is_dir():
        return questions()
    texts = [part.strip() for document in read_documents([DOCUMENTS]) for part in document["text"].split("\n\n")]
    rows: list[dict[str, Any]] = [{"text": text} for text in texts if len(text) > 200]
    return {"xquad": (rows, [("", [""], number) for number in range(len(rows))])}
