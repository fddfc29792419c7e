"""The papers of the project: licence, citation, workflows; and what is said when another `homer` stands in the way."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import homer

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_licence_is_there_and_said() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])


@pytest.mark.parametrize("name", ["CITATION.cff", ".pre-commit-config.yaml"])
def test_a_file_for_machines_can_be_read(name: str) -> None:
    assert yaml.safe_load((ROOT / name).read_text())


def test_the_citation_is_of_the_paper_and_has_its_authors() -> None:
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    assert len(paper["authors"]) == 7
    assert paper["year"] == 2024


def test_the_hooks_are_the_linter_that_guards_main() -> None:
    pinned = re.findall(r"ruff==[\d.]+", (ROOT / "constraints.txt").read_text())
    assert set(re.findall(r"ruff==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text())) == set(pinned)


def test_every_guard_runs_on_every_python_that_is_promised() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    versions = jobs["guards"]["strategy"]["matrix"]["python"]
    assert {f"Programming Language :: Python :: {version}" for version in versions} <= set(PROJECT["classifiers"])
    assert ".ci/run" in [step.get("run") for step in jobs["guards"]["steps"]]
    for path in re.findall(r"tests/[\w/]+\.py", str(jobs["elsewhere"])):
        assert (ROOT / path).is_file(), path


def test_a_release_is_checked_before_it_is_published_and_needs_no_token() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["publish"]["needs"] == "build"
    assert "twine check --strict" in text
    assert "secrets." not in text


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", (ROOT / name).read_text())
    assert not [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()]


def test_another_homer_is_noticed(tmp_path: Path) -> None:
    other = tmp_path / "homer"
    other.mkdir()
    (other / "__init__.py").write_text("def simpson() -> str: return 'not what was sought'\n")
    source = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path(homer.__file__).parent.parent)!r}]"
    command = [sys.executable, "-c", f"{source}\nimport homer_integrations"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert str(other / "__init__.py") in found.stderr
    assert "pip uninstall homer" in found.stderr
