"""The architecture as the folder listing tells it; who may import whom stands in pyproject.toml."""

from pathlib import Path

import pytest

import homer

PACKAGE = Path(homer.__file__).parent


def test_no_import_breaks_the_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    linter = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(PACKAGE.parent)
    assert linter.lint_imports(no_cache=True) == 0


def test_the_listing_can_be_read_at_a_glance() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 20


def test_every_public_name_is_there_and_documented() -> None:
    for name in homer.__all__:
        assert getattr(homer, name) is not None
        if name != "__version__":
            assert getattr(homer, name).__doc__


def test_files_stay_short() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: n for name, n in lengths.items() if n > 300} == {}
