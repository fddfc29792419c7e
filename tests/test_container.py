"""The image: all that is copied is there and is enough, and what it runs is a command that this package has."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from homer.cli import main
from homer_integrations.serve import ServeSettings

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FINAL = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]


def copied() -> set[str]:
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
    return {name for line in lines for name in line.split()[:-1]}


def test_all_that_is_copied_is_let_in_and_is_there() -> None:
    assert {f"!{name}" for name in copied()} <= set(IGNORED)
    assert "*" in IGNORED
    assert all((ROOT / name).exists() for name in copied())


def test_what_the_package_is_built_from_is_copied() -> None:
    project = PROJECT["project"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    assert needed <= copied()
    assert {"homer", "homer_integrations"} <= copied()


def test_its_extras_are_extras() -> None:
    extras = re.search(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.M)[1].split(",")
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])


def test_it_runs_without_rights_and_is_asked_for_its_health() -> None:
    assert re.search(r"^USER [1-9]\d*$", FINAL, re.M)
    assert "HEALTHCHECK" in FINAL
    assert "/health'" in FINAL


def test_its_command_is_one_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, Any] = {}

    def run(given: dict[str, Any], host: str, port: int, *, ray: bool) -> int:
        started.update(given, host=host, port=port)
        return 0

    monkeypatch.setattr("homer_integrations.serve.command.run", run)
    lines = dict(re.findall(r"^(ENTRYPOINT|CMD) (.*)$", FINAL, re.M))
    program, *arguments = json.loads(lines["ENTRYPOINT"]) + json.loads(lines["CMD"])
    assert (program, main(arguments)) == ("homer", 0)
    assert (started.pop("host"), started.pop("port")) == ("0.0.0.0", 8000)
    assert f"EXPOSE {8000}" in FINAL
    assert ServeSettings(**started).model == "mini"


def test_the_page_names_only_arguments_that_there_are() -> None:
    page = (ROOT / "docs/how-to/containers.md").read_text()
    named = set(re.findall(r"--build-arg (\w+)=", page))
    assert named
    assert named <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.M))
