"""Run the notebooks in place and keep their outputs: python -m notebooks.run [FILE ...]"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # a saved progress bar differs in every run
    "PYTHONWARNINGS": "ignore:IProgress not found",  # as does the warning that bars are plain text here
}


def run(notebook: NotebookNode, folder: Path, *, timeout: int = 1200) -> NotebookNode:
    """Run every cell, top to bottom, in a fresh kernel of the interpreter that runs this; offline.

    Args:
        notebook: is changed: it gets the new outputs, and loses metadata that differs from run to run.
        folder: where the kernel starts, and so where relative paths point.
        timeout: seconds for one cell.

    Raises:
        nbclient.exceptions.CellExecutionError: an error in a cell; says which.
    """
    # with no folders to look in, there is no kernel but the one of this interpreter
    kernels = KernelSpecManager(kernel_dirs=[], allowed_kernelspecs={"python3"})
    manager = KernelManager(kernel_name="python3", kernel_spec_manager=kernels)
    options = {"timeout": timeout, "record_timing": False, "coalesce_streams": True}
    client = NotebookClient(notebook, km=manager, resources={"metadata": {"path": str(folder)}}, **options)
    paths = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    try:
        with tempfile.TemporaryDirectory() as calibrations:  # nothing is known of any model, as at a newcomer's
            own = {"PYTHONPATH": paths, "HOMER_CALIBRATIONS": calibrations}
            client.execute(env=os.environ | _OFFLINE | own)
    finally:
        manager.shutdown_kernel(now=True)
    notebook.metadata.clear()
    notebook.metadata.update(_METADATA)
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number}"
        cell.metadata.clear()
    return notebook


def main(arguments: list[str]) -> None:
    """Run the notebooks named, or all of them, and write them back."""
    for path in map(Path, arguments or NOTEBOOKS):
        start = time.monotonic()
        ran = run(nbformat.read(path, as_version=4), path.parent)  # type: ignore[no-untyped-call]
        nbformat.write(ran, path)  # type: ignore[no-untyped-call]
        print(f"{path.name}: {time.monotonic() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
