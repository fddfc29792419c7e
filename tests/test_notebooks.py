"""The notebooks: what is saved is whole, and each runs top to bottom on this machine."""

import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from notebooks.run import FOLDER, NOTEBOOKS, run

NAMES = [
    "1-langchain", "2-llama-index", "3-inside-homer", "4-your-own-model", "5-your-own-folder", "6-agent-that-reads",
]  # fmt: skip


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_all_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_saved_is_whole(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert len(outputs) >= len(cells) - 4  # only imports and definitions print nothing
    said = [output.text for output in outputs if output.get("name") == "stderr"]
    assert all(text.startswith("measuring which attention heads") and text.count("\n") == 1 for text in said)
    assert not [output for output in outputs if output.output_type == "error"]
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_saved_is_the_same_on_every_machine(path: Path) -> None:
    notebook = read(path)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert all(not cell.metadata for cell in notebook.cells)
    printed = "".join(map(text_of, code(notebook)))
    assert not re.findall(r"/(?:home|root|tmp|usr|work|var)/\S*", printed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    links = [
        link
        for cell in read(path).cells
        if cell.cell_type == "markdown"
        for link in re.findall(r"\]\(([^)#]+)\)", cell.source)
    ]
    assert links
    assert not [link for link in links if not link.startswith("https://") and not (FOLDER / link).exists()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_top_to_bottom(path: Path, tmp_path: Path) -> None:
    if path.stem == "5-your-own-folder" and not list((FOLDER.parent / ".real").glob("*.gguf")):
        pytest.skip("the real model is not there: make real-model fetches it")
    if path.stem == "6-agent-that-reads":
        pytest.importorskip("langchain.agents")
    copy = Path(shutil.copy(path, tmp_path))
    saved, now = read(path), run(read(copy), tmp_path)
    for before, after in zip(code(saved), code(now), strict=True):
        kinds = [[output.output_type for output in cell.outputs] for cell in (before, after)]
        assert kinds[0] == kinds[1], after.source


def test_an_error_in_a_cell_is_an_error(tmp_path: Path) -> None:
    notebook = new_notebook(cells=[new_code_cell("assert False, 'as it should'")])
    with pytest.raises(CellExecutionError, match="as it should"):
        run(notebook, tmp_path)


def test_the_kernel_is_this_interpreter_and_offline(tmp_path: Path) -> None:
    source = "import os, sys; print(sys.executable, os.environ['HF_HUB_OFFLINE'])"
    ran = run(new_notebook(cells=[new_code_cell(source)]), tmp_path)
    assert text_of(ran.cells[0]).split() == [sys.executable, "1"]
