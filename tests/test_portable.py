"""What other systems ask of the code: no modules that they lack, and text files whose encoding is said."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import homer
import homer_integrations

FILES = [path for package in (homer, homer_integrations) for path in Path(package.__file__).parent.rglob("*.py")]
LACKING = {"fcntl", "termios", "pwd", "grp", "resource", "posix", "msvcrt", "winreg"}


def texts(path: Path) -> Iterator[ast.Call]:
    """Calls that read or write text files."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            plain = isinstance(node.func, ast.Name) and node.func.id == "open" and not is_binary(node)
            if method in ("read_text", "write_text") or plain:
                yield node


def is_binary(call: ast.Call) -> bool:
    modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_runs_on_any_system(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    imported = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}
    assert not imported & LACKING
    for call in texts(path):
        assert "encoding" in {keyword.arg for keyword in call.keywords}, ast.unparse(call)
