"""What commands take: one vocabulary, old names that still work, and help that imports nothing that takes long."""

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import homer
from homer.base import lazy
from homer.cli import commands, experiments, main, options, running
from homer.experiments.methods import METHODS
from homer.experiments.needle import NEEDLE_NEW_TOKENS
from homer.experiments.passkey import PASSKEY_NEW_TOKENS
from homer.experiments.perplexity import AFFIX_LEN
from homer.experiments.presets import PRESETS
from homer.experiments.retrieval import DEFAULT_DEPTHS
from homer.model import compressor
from homer_integrations import commands as integrations

NAMES = ["ask", "index", "compress", "demo", "doctor", "passkey", "needle", "perplexity", "calibrate", "serve", "batch"]


def command(name: str) -> options.Command:
    return commands._HOMER.get_command(None, name)  # type: ignore[arg-type, return-value]


def taken(name: str, *arguments: str) -> dict[str, object]:
    return command(name).make_context(name, list(arguments)).params


def test_help_of_every_command_needs_no_torch() -> None:
    source = f"""
import sys
from homer.cli import main
assert main(["--help"]) == main(["--version"]) == 0
for name in {NAMES}:
    assert main([name, "--help"]) == 0
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert f"\n  {name} " in done.stdout
        assert f"Usage: homer {name} " in done.stdout
    assert done.stdout.count("--model TEXT") == len(NAMES)


def test_what_help_says_without_asking_the_library_is_what_it_would_say() -> None:
    assert experiments.METHODS == METHODS
    assert list(experiments.PRESETS) == sorted(PRESETS)
    assert taken("passkey")["max_tokens"] == PASSKEY_NEW_TOKENS
    assert taken("needle")["max_tokens"] == NEEDLE_NEW_TOKENS
    assert taken("needle")["depths"] == DEFAULT_DEPTHS
    assert taken("perplexity", "a")["affix_len"] == AFFIX_LEN
    shortened = {option.name: option for option in command("compress").params}
    assert tuple(shortened["keep"].type.choices) == compressor.KEEPS  # type: ignore[attr-defined]
    assert shortened["marker"].default == compressor.MARKER


def test_old_names_work_and_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name, given in (("ask", ["--question", "?"]), ("needle", []), ("serve", []), ("batch", ["a", "--out", "b"])):
        assert taken(name, *given, "--max-new-tokens", "7")["max_tokens"] == 7
        assert taken(name, *given, "--max-tokens", "7")["max_tokens"] == 7
        assert taken(name, *given, "--device-map", "auto")["device" if name == "needle" else "device_map"] == "auto"
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "--max-tokens" in shown
        assert "--max-new-tokens" not in shown
        assert "--device-map" not in shown


def test_auto_is_a_device_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[SimpleNamespace] = []
    monkeypatch.setattr(running, "run_demo", lambda options: given.append(options) or 0)
    for arguments in (["--device", "auto"], ["--device-map", "auto"], ["--device", "cpu"]):
        assert main(["demo", *arguments]) == 0
    assert [(options.device, options.device_map) for options in given] == [
        (None, "auto"),
        (None, "auto"),
        ("cpu", None),
    ]


def test_devices_are_named_in_one_text() -> None:
    for name, given in (("ask", ["--question", "?"]), ("serve", []), ("batch", ["a", "--out", "b"]), ("index", ["a"])):
        more = ["--out", "c"] if name == "index" else []
        assert taken(name, *given, *more, "--devices", "0,1")["devices"] == "0,1"


def test_several_values_stand_in_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    given = taken(
        "needle", "--method", "plain", "homer", "--seed", "3", "--context-lengths", "5", "6", "--data=a", "--data", "b"
    )
    assert given["method"] == ["plain", "homer"]
    assert given["context_lengths"] == [5, 6]
    assert [str(path) for path in given["data"]] == ["a", "b"]  # type: ignore[attr-defined]
    assert given["calibration"] is None
    assert taken("perplexity", "--method", "plain", "--", "--text")["texts"] == (Path("--text"),)
    assert taken("batch", "-", "--documents", "-", "a", "--out", "b")["documents"] == [Path("-"), Path("a")]
    for arguments in (["passkey", "--write-data"], ["passkey", "--data"], ["passkey", "--method", "--seed", "1"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert "requires an argument" in capsys.readouterr().err


def test_what_is_wrong_is_said_and_the_status_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["nothing"], "No such command 'nothing'"),
        (["ask"], "Missing option '--question'"),
        (["index", "--out", "a"], "Missing argument 'FILES...'"),
        (["demo", "--significance", "none"], "'none' is not one of 'auto'"),
        (["passkey", "--samples", "many"], "'many' is not a valid integer"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err


def test_a_shell_completes_commands_options_and_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, found in (
        ("homer comp", "compress"),
        ("homer ask --quest", "--question"),
        ("homer needle --method ", "yarn"),
    ):
        monkeypatch.setenv("_HOMER_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        assert main([]) == 0
        assert f"plain,{found}" in capsys.readouterr().out


def test_a_public_name_is_where_the_types_say(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ast.parse(Path(homer.__file__).read_text())
    typed = {
        alias.name: node.module.removeprefix("homer.")
        for branch in tree.body
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert typed == {name: module for module, names in homer._MODULES.items() for name in names.split()}
    assert sorted([*typed, "__version__"]) == sorted(homer.__all__)
    find = lazy.names_of("homer", {"errors": "HomerError InputError"}, lambda name: f"no {name}")
    assert find("InputError") is homer.InputError
    assert find("Nothing") == "no Nothing"


def test_serve_and_batch_share_the_options_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, made in integrations.commands(options).items():
        ours = {option.name for option in made.params}
        assert {option.name for option in (*options.MODEL, *options.LENGTHS)} <= ours, name
