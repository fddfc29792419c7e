"""Every module is tested by name: a test file is called so, or imports it or something that is defined in it."""

import ast
import importlib
from pathlib import Path

import pytest

import homer
import homer_integrations

TESTS = Path(__file__).parent
FOLDERS = [Path(package.__file__).parent for package in (homer, homer_integrations)]
MODULES = sorted(
    ".".join(path.relative_to(folder.parent).with_suffix("").parts)
    for folder in FOLDERS
    for path in folder.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)
PACKAGES = {
    ".".join(path.parent.relative_to(folder.parent).parts) for folder in FOLDERS for path in folder.rglob("__init__.py")
}
APART = {"homer_integrations.serve.pdf_text": "test_serve_reading.py"}  # is run as a program, by the module `pdf`


def _imports(path: Path) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {(node.module, alias.name) for alias in node.names}
    return {(module, name) for module, name in found if module.split(".")[0] in ("homer", "homer_integrations")}


def _named(module: str, name: str) -> set[str]:
    """What an import covers: the module, and where that is defined which a package gives under its own name."""
    found = {module, f"{module}.{name}"}
    if name and module not in MODULES and f"{module}.{name}" not in MODULES and module in PACKAGES:
        found.add(getattr(getattr(importlib.import_module(module), name, None), "__module__", module))
    return found


@pytest.fixture(scope="module")
def covered() -> set[str]:
    files = (path for path in TESTS.rglob("*.py") if path != Path(__file__))
    imported = set().union(*map(_imports, files))
    return set().union(*(_named(module, name) for module, name in imported))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_test(module: str, covered: set[str]) -> None:
    name = module.rsplit(".", 1)[1]
    own = {f"test_{name}.py", f"test_{module.split('.')[-2]}_{name}.py"} & {path.name for path in TESTS.rglob("*.py")}
    apart = APART.get(module)
    assert module in covered or own or apart in {path.name for path in TESTS.rglob("*.py")}, module
