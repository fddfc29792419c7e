"""The architecture as the folder listing tells it: who may import whom."""

import ast
from pathlib import Path

import pytest

import homer

PACKAGE = Path(homer.__file__).parent
ORDER = (
    "_version errors arguments tensorfile folder readers config shares schedule footprint attend fused kernels chunk "
    "significance calibration sentences looking scoring question significances attention architecture views "
    "fingerprint decoder blocks graph fast states ids cache merge encoding synthetic measuring template prompt asking "
    "remembered encoded store leaves trace sources conversation styles drawing page answer streaming sampling "
    "generation answering loading reuse model compat files indexing demo experiments doctor cli __main__"
).split()
EXPERIMENTS = (
    "report methods presets cases haystack retrieval passkey needle perplexity calibrating figures commands"
).split()
MAY_IMPORT_TRANSFORMERS = {
    "attention", "architecture", "fingerprint", "decoder", "fast", "states", "cache", "generation", "sampling",
    "loading", "model", "compat", "cli", "experiments.report", "experiments.methods", "experiments.perplexity",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Modules imported at run time; those under TYPE_CHECKING or inside functions are left out."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def modules() -> list[str]:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    return sorted(files | {"demo"} | {f"experiments.{name}" for name in ["__init__", *EXPERIMENTS]})


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_only_those_above_it(name: str) -> None:
    path = PACKAGE / f"{name.replace('.', '/')}.py" if name != "demo" else PACKAGE / "demo" / "__init__.py"
    folder = name.split(".")[0]
    for module in imported(path):
        top, _, rest = module.partition(".")
        if top == "homer" and rest and not (folder == "experiments" and rest.startswith("experiments.")):
            assert ORDER.index(rest.split(".")[0]) < ORDER.index(folder), f"{name} imports {module}"
        if top == "transformers":
            assert name in MAY_IMPORT_TRANSFORMERS
    if name in ("schedule", "shares", "config", "errors"):
        assert not {"torch", "transformers"} & imported(path)


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
