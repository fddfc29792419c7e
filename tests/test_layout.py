"""The architecture as the folder listing tells it: who may import whom."""

import ast
from pathlib import Path

import pytest

import homer

PACKAGE = Path(homer.__file__).parent
ORDER = (
    "errors base config text plan significance backends merging reuse view generation calibrating model compat "
    "demo experiments cli __main__"
).split()
EXPERIMENTS = (
    "report methods presets cases haystack retrieval passkey needle perplexity calibrating figures commands"
).split()
MAY_IMPORT_TRANSFORMERS = {"backends", "merging", "generation", "reuse", "model", "compat", "cli", "experiments"}


def imported(path: Path) -> set[str]:
    """Modules imported at run time; those under TYPE_CHECKING or inside functions are left out."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_folder_imports_only_those_before_it(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return
    for module in imported(path):
        top, _, rest = module.partition(".")
        if top == "homer":
            assert ORDER.index(rest.split(".")[0]) <= ORDER.index(own), f"{path} imports {module}"
        if top == "transformers":
            assert own in MAY_IMPORT_TRANSFORMERS
    if own in ("plan", "text", "base", "config", "errors") and path.name not in (
        "ids.py",
        "prompt.py",
        "conversation.py",
    ):
        assert not {"torch", "transformers"} & imported(path)


def test_the_listing_can_be_read_at_a_glance() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 20


def test_the_experiments_build_on_one_another_in_order() -> None:
    files = {path.stem for path in (PACKAGE / "experiments").glob("*.py")} - {"__init__"}
    assert files == set(EXPERIMENTS)
    for place, name in enumerate(EXPERIMENTS):
        for module in imported(PACKAGE / "experiments" / f"{name}.py"):
            if module.startswith("homer.experiments."):
                assert EXPERIMENTS.index(module.split(".")[2]) < place, f"{name} imports {module}"


def test_every_public_name_is_there_and_documented() -> None:
    for name in homer.__all__:
        assert getattr(homer, name) is not None
        if name != "__version__":
            assert getattr(homer, name).__doc__


def test_files_stay_short() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: n for name, n in lengths.items() if n > 420} == {}
