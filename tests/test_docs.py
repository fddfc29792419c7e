"""The site: every example of every page runs and says what it promises; references are whole; nothing is fetched."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from docs import site
from docs.docstrings import apart
from homer import HomerModel
from homer.cli import main
from homer.demo import DOCUMENTS
from homer_integrations.serve import ServeSettings
from tests.serving import running

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))
READ = [ROOT / "README.md", *PAGES]
OWN = {
    '"Qwen/Qwen3-4B"': "HomerModel.from_pretrained('mini').name", '"/models/qwen3-4b"': "'mini'",
    'chat_template_kwargs={"enable_thinking": False}': "chat_template_kwargs={}",
}  # fmt: skip

WORDS = (
    '--strict file_data align="documents" homer-store rope_scaling quantization_config text-plain '
    "--preset --write-data create_retrieval_chain HomerEncoder cached_tokens Retry-After HomerForCausalLM bias_path "
    "homer_calibration.safetensors refresh_suffix --states-folder additional_kwargs build_app suffix_budget homer.show"
    " trace=True --values"
).split()


def blocks(language: str) -> list[Any]:
    """Every block of code of a language, on every page."""
    found = []
    for path in READ:
        name = path.relative_to(ROOT).as_posix()
        for number, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.S | re.M)):
            found.append(pytest.param(block, id=f"{name}-{number}"))
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a handbook, a file beside it, a book, and questions."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DOCUMENTS, tmp_path / "handbook")
    (tmp_path / "minutes.md").write_text("The board met on 3 May. Nobody objected.\n")
    (tmp_path / "book.txt").write_text("The harvest of early potatoes began in May, and it was a good one. " * 400)
    asked = {"orrin": "What is the cutover date for the Orrin migration?", "party": "Where is the summer party held?"}
    lines = (json.dumps({"id": name, "question": question}) for name, question in asked.items())
    (tmp_path / "questions.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def promised(block: str) -> list[str]:
    return re.findall(r"^(?:print|asyncio\.run)\(.*\)  # (.*)$", block, re.M)


@pytest.mark.parametrize("block", blocks("python"))
def test_an_example_in_python(block: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    exec(compile(block, "example", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.splitlines()[: len(promised(block))] == promised(block)


@pytest.mark.parametrize("block", [block for block in blocks("py") if "base_url" not in block.values[0]])
def test_an_example_with_a_model_of_ones_own(block: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    if "langchain_community" in block:
        pytest.importorskip("langchain_community")
    for name, stand_in in OWN.items():
        block = block.replace(name, stand_in)
    exec(compile(f"from homer import HomerModel\n{block}", "example", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.splitlines()[: len(promised(block))] == promised(block)


def commands(block: str) -> Iterator[tuple[list[str], str]]:
    for line in block.replace("\\\n", " ").splitlines():
        command, _, comment = line.partition("  # ")
        yield shlex.split(command), comment.strip()


@pytest.mark.parametrize("block", blocks("bash"))
def test_a_command(block: str, folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr("homer_integrations.serve.command.run", lambda given, *_, **options: started.append(given) or 0)
    for (program, *arguments), comment in commands(block):
        assert program == "homer"
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert "about" in comment or comment in printed
    for given in started:
        ServeSettings(**given)


@pytest.fixture(scope="module")
def address(mini: HomerModel) -> Iterator[str]:
    with running(ServeSettings(model=mini, served_name="mini")) as server:
        yield server.url


@pytest.mark.parametrize("block", [block for block in blocks("(?:sh)?") if "curl" in block.values[0]])
def test_a_request(block: str, address: str) -> None:
    path = re.search(r"/v1(/\S+)", block)[1]
    body = json.loads(re.search(r"-d '(.*)'", block, re.S)[1])
    answer = httpx.post(address + path, json=body, timeout=60).json()
    assert answer["choices"][0]["message"]["content"] == "48213"


def test_there_are_examples_of_every_kind() -> None:
    assert len(blocks("python")) >= 20
    assert len(blocks("bash")) >= 12


def test_no_sentence_of_the_readme_that_a_user_needs_is_lost() -> None:
    told = "".join(path.read_text() for path in READ)
    for word in WORDS:
        assert word in told, word


@pytest.mark.parametrize("module", ["homer", "homer_integrations.langchain", "homer_integrations.llama_index"])
def test_every_public_name_is_in_the_reference(module: str) -> None:
    pages = {path.read_text() for path in (ROOT / "docs/reference").glob("*.md")}
    assert any(f"<!-- names: {module} -->" in page for page in pages)
    listed = re.findall(rf"::: {re.escape(module)}\.(\w+)", site.names(module))
    public = __import__(module, fromlist=["__all__"]).__all__
    assert listed == [name for name in public if name != "__version__"]


def test_every_command_is_in_the_reference() -> None:
    made = site.commands("")
    named = set(re.findall(r"^## homer (\S+)$", made, re.M))
    assert {"ask", "index", "serve", "batch", "demo", "doctor", "passkey", "needle", "perplexity", "calibrate"} <= named
    assert "--allowed-origins" in made
    assert str(Path.home()) not in made


@pytest.mark.parametrize("kind", ["homer.HomerConfig", "homer.Sampling", "homer_integrations.serve.ServeSettings"])
def test_every_setting_has_a_meaning(kind: str) -> None:
    rows = site.settings(kind).splitlines()[2:]
    assert len(rows) >= 8
    assert not [row for row in rows if not row.split(" | ", 2)[2].strip(" |")]


def test_the_page_on_http_is_the_servers_own_description() -> None:
    page = site.http("")
    assert "| `/v1/chat/completions` | POST |" in page
    assert "| `messages` | array, needed |" in page
    assert "| `documents` | array |" in page


def test_a_line_of_several_names_is_a_line_for_each() -> None:
    text = "Do.\n\n    Args:\n        a, b_c: as there.\n        d: alone, and so on: here.\n"
    assert apart(text) == text.replace("a, b_c: as there.", "a: as there.\n        b_c: as there.")


def test_a_page_that_fetches_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text('<script async src="https://unpkg.com/x.js"></script>')
    with pytest.raises(SystemExit, match=r"unpkg\.com/x\.js"):
        site.on_post_build(type("Config", (), {"site_dir": str(tmp_path)}))
    (tmp_path / "page.html").write_text('<a href="https://arxiv.org">paper</a> <img src="assets/a.png">')
    site.on_post_build(type("Config", (), {"site_dir": str(tmp_path)}))


def test_every_page_is_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        pass

    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]
    listed = set(re.findall(r"[\w/-]+\.md", json.dumps(nav)))
    assert {path.relative_to(ROOT / "docs").as_posix() for path in PAGES} <= listed
    kept = set(re.findall(r"[\w/-]+\.md", json.dumps(site._present(nav))))
    assert {name for name in kept if not (ROOT / "docs" / name).is_file()} == set()


def test_pages_stay_in_plain_width() -> None:
    for path in PAGES:
        for line in path.read_text().splitlines():
            assert len(line) <= 160 or line.startswith(("|", "<div", "{", "memory ")), (path.name, line[:60])
