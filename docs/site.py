"""What mkdocs runs as it builds the site: references made from the code, and a check that nothing is fetched."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_MARK = re.compile(r"^<!-- (names|commands|settings|http|file)(?:: (\S+))? -->$", re.MULTILINE)
_COMMAND = re.compile(r"^ {2}([a-z][a-z-]*) {2,}\S", re.MULTILINE)
_OUTSIDE = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"' >]+)""")
_ITEM = re.compile(r"^    ([a-z_]+(?:, [a-z_]+)*): (.+(?:\n     +.+)*)", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page with its marks replaced by what they name."""
    return _MARK.sub(lambda mark: _MADE[mark[1]](mark[2]), markdown)


def on_config(config: Any) -> Any:
    """Leave out of the navigation what is not there."""
    config.nav = _present(config.nav)
    return config


def on_post_build(config: Any) -> None:
    """Raise SystemExit where a page would fetch anything from elsewhere."""
    found = {
        (path.name, address)
        for path in Path(config.site_dir).rglob("*.html")
        for address in _OUTSIDE.findall(path.read_text(encoding="utf-8"))
    }
    if found:
        raise SystemExit(f"{len(found)} pages fetch from elsewhere, such as {sorted(found)[0]}: take it out")


def names(module: str) -> str:
    """A reference of every public name of a module, by mkdocstrings."""
    public = importlib.import_module(module).__all__
    return "\n\n".join(f"::: {module}.{name}" for name in public if name != "__version__")


def commands(_: str) -> str:
    """The help of every command."""
    found = dict.fromkeys(_COMMAND.findall(help_of()))
    return "\n\n".join(f"## homer {name}\n\n```text\n{help_of(name)}\n```" for name in found)


def help_of(*arguments: str) -> str:
    """What a command prints for --help."""
    from homer.cli import main

    os.environ["COLUMNS"] = "110"
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return printed.getvalue().strip()


def settings(name: str) -> str:
    """A table of the fields of a dataclass or of a pydantic model."""
    module, _, kind = name.rpartition(".")
    rows = [f"| `{field}` | {default} | {text} |" for field, default, text in fields_of(_imported(module, kind))]
    return "\n".join(["| name | default | meaning |", "|---|---|---|", *rows])


def fields_of(kind: Any) -> Iterator[tuple[str, str, str]]:
    """(name, default, meaning) of every field."""
    import homer

    said = described(kind) | described(homer.HomerConfig) | described(homer.Sampling) | _of_loading()
    if dataclasses.is_dataclass(kind):
        values = {field.name: field.default for field in dataclasses.fields(kind) if not field.name.startswith("_")}
        own: dict[str, str | None] = {}
    else:
        values = {n: f.default_factory() if f.default_factory else f.default for n, f in kind.model_fields.items()}
        own = {n: f.description for n, f in kind.model_fields.items()}
    for name, default in values.items():
        text = own.get(name) or said.get(name) or ""
        yield name, f"`{default!r}`", " ".join(text.replace("|", "\\|").split())


def described(kind: Any) -> dict[str, str]:
    """What a docstring says of every argument or attribute; of several names in one line, of each."""
    found: dict[str, str] = {}
    for names, text in _ITEM.findall(inspect.getdoc(kind) or ""):
        found |= dict.fromkeys(names.split(", "), text)
    return found


def http(_: str) -> str:
    """The endpoints of the server, and the fields of what they take."""
    schema = openapi()
    parts = ["| path | method | what it is |", "|---|---|---|"]
    parts += [
        f"| `{path}` | {method.upper()} | {route.get('description', '')} |"
        for path, routes in schema["paths"].items()
        for method, route in routes.items()
    ]
    for name, title in (("ChatRequest", "/v1/chat/completions"), ("CompletionRequest", "/v1/completions")):
        parts += ["", f"## {title}", "", "| field | kind | meaning |", "|---|---|---|"]
        model = schema["components"]["schemas"][name]
        for field, facts in model["properties"].items():
            needed = ", needed" if field in model["required"] else ""
            parts.append(f"| `{field}` | {_kind(facts)}{needed} | {facts.get('description', '')} |")
    return "\n".join(parts)


def openapi() -> dict[str, Any]:
    """The server's description of itself, from a server without a model."""
    from fastapi.testclient import TestClient

    from homer_integrations.serve import ServeSettings, create_app

    with TestClient(create_app(_NoBackend(), ServeSettings()), base_url="http://localhost") as client:  # type: ignore[arg-type]
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def file(path: str) -> str:
    """A file of the repository; its links lead to the pages here."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return text.replace("(benchmarks/README.md", "(benchmarks.md").replace("(docs/", "(")


def on_files(files: Any, config: Any) -> Any:
    """The figures of the benchmarks are files of the site as well."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "benchmarks" / "results").rglob("*.png")):
        name = path.relative_to(ROOT / "benchmarks").as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


class _NoBackend:
    def busyness(self) -> dict[str, float]:
        return {}


def _of_loading() -> dict[str, str]:
    import homer

    return described(homer.HomerModel) | described(homer.HomerModel.from_pretrained)


def _kind(facts: dict[str, Any]) -> str:
    choices = [facts, *facts.get("anyOf", [])]
    kinds = [choice.get("type") or choice.get("$ref", "").rpartition("/")[2] for choice in choices]
    return " or ".join(kind for kind in kinds if kind and kind != "null") or "any"


def _imported(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _present(nav: Any) -> Any:
    """A navigation without pages that are not there."""
    if isinstance(nav, list):
        return [kept for entry in nav if (kept := _present(entry)) not in (None, [], {})]
    if isinstance(nav, dict):
        return {title: kept for title, entry in nav.items() if (kept := _present(entry)) not in (None, [])}
    return nav if (ROOT / "docs" / nav).is_file() else None


_MADE = {"names": names, "commands": commands, "settings": settings, "http": http, "file": file}
