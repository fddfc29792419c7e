"""What the wrappers may import: homer's public names, their own helpers, and one framework each."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import homer
import homer_integrations

FOLDER = Path(homer_integrations.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
FRAMEWORKS = ("langchain", "llama_index", "lm_eval")
SERVING = {"fastapi": ("serve/",), "starlette": ("serve/",), "uvicorn": ("serve/",), "ray": ("serve/cluster", "batch/")}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, those inside functions among them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_wrapper_imports_public_names_and_its_own_framework(path: Path) -> None:
    for module, name in imports(path):
        if module.split(".")[0] == "homer":
            assert module == "homer"
            assert name in homer.__all__
        for framework in FRAMEWORKS:
            if framework in module:
                assert path.parent.name == framework, f"{path} imports {module}"
        owners = SERVING.get(module.split(".")[0])
        assert owners is None or str(path.relative_to(FOLDER)).startswith(owners), f"{path} imports {module}"
    assert len(path.read_text().splitlines()) <= 250


@pytest.mark.parametrize(
    ("wrapper", "package"),
    [("langchain", "langchain_core"), ("llama_index", "llama_index.core"), ("serve", "fastapi"), ("serve", "uvicorn")],
)
def test_without_its_extra_a_wrapper_says_which(wrapper: str, package: str) -> None:
    source = f"import sys; sys.modules[{package!r}] = None; import homer_integrations.{wrapper}"
    found = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert f"pip install homer-integrations[{wrapper.replace('_', '-')}]" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "package", "extra"), [(["serve"], "fastapi", "serve"), (["serve", "--ray"], "ray", "ray")]
)
def test_a_command_says_which_extra_it_needs(arguments: list[str], package: str, extra: str) -> None:
    source = f"import sys; sys.modules[{package!r}] = None; from homer.cli import main; sys.exit(main({arguments}))"
    found = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("homer: ")
    assert f"pip install homer-integrations[{extra}]" in found.stderr
