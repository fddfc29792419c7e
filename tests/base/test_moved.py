"""Old import paths: still there, with a warning."""

import importlib
import re
import subprocess
import sys
import warnings

import pytest

import homer
from homer.base.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED.keys() - {"homer.attend", "homer.fused"}))  # these need Triton
def test_an_old_path_gives_the_very_module_and_warns(old: str) -> None:
    new = importlib.import_module(MOVED[old])
    if old in ("homer.significance", "homer.generation", "homer.reuse"):
        name = next(name for name, value in vars(new).items() if getattr(value, "__module__", "") == new.__name__)
        with pytest.warns(DeprecationWarning, match=re.escape(f"{old}.{name} is {MOVED[old]}.{name} now")):
            assert getattr(importlib.import_module(old), name) is getattr(new, name)
        return
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=re.escape(f"{old} is {MOVED[old]} now")):
        assert importlib.import_module(old) is new


def test_the_warning_is_at_the_line_that_imports() -> None:
    source = "from homer.scoring import Standardized\nimport homer\nassert homer.scoring.Standardized is Standardized\n"
    found = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert found.stderr.startswith("<string>:1: DeprecationWarning: homer.scoring is homer.significance now")
    assert found.stderr.count("DeprecationWarning") == 1


def test_what_never_was_is_not_there() -> None:
    for wrong in ("homer.nothing", "homer.significance.nothing"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(wrong)
    with pytest.raises(AttributeError, match="module 'homer' has no attribute 'nothing'"):
        homer.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_library_itself_uses_no_old_path() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for name in homer.__all__:
            getattr(homer, name)
