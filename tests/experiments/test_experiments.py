"""The experiments on models: results that are known, the same cases for all, and every command end to end."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from small import save_small
from torch.nn.functional import cross_entropy

from homer import Calibration, ConfigError, HomerConfig, HomerModel, InputError
from homer.calibrating import measuring
from homer.cli import main
from homer.demo import DOCUMENTS
from homer.experiments import (
    PRESETS,
    Report,
    Segments,
    Setup,
    calibrate_files,
    draw,
    needle,
    passkey,
    perplexity,
)  # fmt: skip
from homer.experiments.methods import Method, open_methods
from homer.experiments.perplexity import token_losses

TEXT = DOCUMENTS / "05-mail-orrin-migration.md"
TINY = ["--max-chunk-len", "128", "--layers-warmup", "2", "--no-progress"]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_small(tmp_path_factory.mktemp("small") / "model"))


def method_of(model: HomerModel, name: str = "homer") -> Method:
    return Method(name, model, name.startswith("homer"))


def test_passkey_on_the_shipped_model(mini: HomerModel) -> None:
    report = passkey(Setup(mini, ("homer",)), context_lengths=[1100], samples=2)
    assert report.value("homer", 1100) == 1.0
    assert all(case["kept"] <= 512 < 1000 < case["tokens"] <= 1100 for case in report.cases)


def test_needle_on_the_shipped_model(mini: HomerModel) -> None:
    report = needle(Setup(mini), DOCUMENTS, context_lengths=[500], samples=1)
    assert report.methods == ["plain", "homer"]
    assert report.value("plain", 500) == 1.0


def test_all_methods_see_the_same_cases_and_runs_repeat(small: str) -> None:
    setup = Setup(small, ("homer-yarn", "plain", "homer", "yarn"), settings={"max_chunk_len": 128}, seed=3)
    first, second = (passkey(setup, context_lengths=[200, 300], samples=2, max_new_tokens=4) for _ in range(2))
    assert first.methods == ["homer-yarn", "plain", "homer", "yarn"]
    assert first.rows == second.rows
    seen = {}
    for a, b in zip(first.cases, second.cases, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
        assert seen.setdefault(a["case"], (a["targets"], a["tokens"])) == (a["targets"], a["tokens"])
    resolved = first.settings["resolved"]
    assert (resolved["plain"]["window"], resolved["yarn"]["window"]) == (256, 512)
    assert resolved["homer"]["config"]["max_chunk_len"] == 128


def test_plain_losses_are_the_models_own(tiny: HomerModel) -> None:
    ids = torch.randint(0, 300, (150,), generator=torch.Generator().manual_seed(0))
    losses = torch.cat(list(token_losses(method_of(tiny, "plain"), ids, Segments(40, 4))))
    with torch.no_grad():
        logits = tiny.model(ids[None]).logits[0]
    torch.testing.assert_close(losses, cross_entropy(logits[:-1], ids[1:], reduction="none"), atol=1e-4, rtol=1e-4)


def test_homer_losses_without_pruning_are_the_models_own(tiny: HomerModel) -> None:
    whole = HomerModel(tiny.model, config=HomerConfig(max_chunk_len=128, layers_warmup=2))
    ids = torch.randint(0, 300, (125,), generator=torch.Generator().manual_seed(0))
    plain, homer = (
        torch.cat(list(token_losses(method_of(whole, name), ids, Segments(40, 4)))) for name in ("plain", "homer")
    )
    torch.testing.assert_close(homer, plain, atol=1e-4, rtol=1e-4)


def test_homer_losses_are_those_of_the_compact_cache(tiny: HomerModel) -> None:
    ids = torch.randint(0, 300, (130,), generator=torch.Generator().manual_seed(0))
    losses = torch.cat(list(token_losses(method_of(tiny), ids, Segments(40, 4))))
    assert len(losses) == 129
    cache = tiny.compress(ids[:4], ids[4:116], ids[116:120])
    logits = torch.cat([cache.logits, tiny.forward(ids[120:130], cache)[0, :-1]])
    torch.testing.assert_close(losses[119:], cross_entropy(logits, ids[120:130], reduction="none"))
    assert len(cache) <= 32


def test_perplexity_is_accumulated(small: str) -> None:
    setup = Setup(small, ("plain", "homer"), settings={"max_chunk_len": 128})
    report = perplexity(setup, [TEXT], context_lengths=[400, 100], samples=2, segments=Segments(60, 20))
    assert report.lengths == [100, 400]
    assert report.value("plain", 100) == pytest.approx(report.value("homer", 100), rel=0.05)
    assert 1 < report.value("homer", 400) < 10_000
    assert report.curves["homer"][-1] == (400, report.value("homer", 400))
    assert [tokens for tokens, _ in report.curves["plain"]] == sorted(tokens for tokens, _ in report.curves["plain"])
    assert len(report.cases) == 4


def test_a_quarter_of_a_window_that_yarn_extended(small: str) -> None:
    plain, yarn = open_methods(Setup(small, ("plain", "yarn"), scale=4))
    assert (plain.model.window, yarn.model.window) == (256, 1024)
    segments = Segments(affix_len=20)
    assert (segments.length(plain), segments.length(yarn)) == (128, 256)


def test_what_cannot_be_measured(small: str, tiny: HomerModel) -> None:
    with pytest.raises(InputError, match="0 text files"):
        perplexity(Setup(small), [])
    with pytest.raises(InputError, match=r"holds 1,\d+ tokens, the longest context length is 9,000"):
        perplexity(Setup(small), [TEXT], context_lengths=[9000])
    with pytest.raises(ConfigError, match="segment_len=128 leaves no context beside 2 x 100"):
        perplexity(Setup(small), [TEXT], context_lengths=[300])
    with pytest.raises(ConfigError, match="max_chunk_len=32 and segment_len=250 pass the window of 256"):
        Segments(250, 4).length(method_of(tiny))
    with pytest.raises(ConfigError, match="unknown method 'rope'"):
        Setup(methods=("rope",))
    with pytest.raises(ConfigError, match="not a loaded model"):
        Setup(tiny, ("yarn",))
    with pytest.raises(ConfigError, match="scale=0.5"):
        Setup(scale=0.5)
    with pytest.raises(ConfigError, match="unknown setting 'chunk'"):
        Setup(settings={"chunk": 1})
    with pytest.raises(ConfigError, match="no haystack"):
        needle(Setup(small))


def test_the_papers_settings() -> None:
    seven, thirteen = PRESETS["llama-2-7b"], PRESETS["llama-2-13b"]
    assert (seven.settings["layers_warmup"], thirteen.settings["layers_warmup"]) == (12, 20)
    setup = Setup(**seven.setup(chat=True))
    assert (setup.model, setup.scale, setup.dtype) == ("meta-llama/Llama-2-7b-chat-hf", 2.0, "float16")
    assert setup.methods == ("plain", "yarn", "homer", "homer-yarn")
    assert not setup.settings["refresh_suffix"]
    for window, chunk in ((4096, 2048), (8192, 4096)):
        resolved = HomerConfig.from_dict(setup.settings).resolve(window, 32)
        assert (resolved.max_chunk_len, resolved.target_len, resolved.layers_warmup) == (chunk, chunk, 12)


def test_the_preset_runs_on_a_model_of_its_shape(tmp_path: Path) -> None:
    model = str(save_small(tmp_path / "m", layers=32, window=4096, hidden=16))
    options = ["--preset", "llama-2-7b", "--model", model, "--dtype", "float32", "--method", "homer", "--no-progress"]
    assert main(["passkey", *options, "--context-lengths", "5000", "--samples", "1", "--out", str(tmp_path)]) == 0
    settings = json.loads((tmp_path / "passkey.json").read_text())["settings"]
    config = settings["resolved"]["homer"]["config"]
    assert (config["max_chunk_len"], config["layers_warmup"], config["refresh_suffix"]) == (2048, 12, False)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["passkey", "--context-lengths", "200", "300", "--samples", "2"], "passkey"),
        (["needle", str(DOCUMENTS), "--context-lengths", "300", "--samples", "1", "--keys", "3"], "needle"),
        (["needle", str(TEXT), "--context-lengths", "2000", "--samples", "1", "--repeat-haystack"], "needle"),
        (["perplexity", str(TEXT), "--context-lengths", "128", "300", "--affix-len", "20", "--segment-len", "64"],
         "perplexity"),
    ],
)  # fmt: skip
def test_commands(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], name: str
) -> None:
    pytest.importorskip("matplotlib")
    methods = ["--method", "plain", "yarn", "homer", "homer-yarn", "--scale", "2", "--seed", "1", *TINY]
    assert main([*command, "--model", small, *methods, "--out", str(tmp_path / "out")]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:]] == ["plain", "yarn", "homer", "homer-yarn"]
    data = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert {"machine", "versions", "date", "settings", "rows", "cases"} <= set(data)
    assert data["settings"]["seed"] == 1
    assert small not in json.dumps(data)
    rows = (tmp_path / "out" / f"{name}.csv").read_text().splitlines()
    assert len(rows) == 1 + len(data["rows"])
    assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_write_data_then_read_it(small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(tmp_path / "data.jsonl")
    made = ["--context-lengths", "300", "--samples", "2"]
    assert main(["passkey", "--model", small, *made, "--write-data", data]) == 0
    assert capsys.readouterr().out.startswith(f"2 cases written to {data}")
    run = ["passkey", "--model", small, "--method", "homer", *TINY]
    assert main([*run, *made, "--out", str(tmp_path / "made")]) == 0
    assert main([*run, "--data", data, "--out", str(tmp_path / "read")]) == 0
    first, second = (json.loads((tmp_path / name / "passkey.json").read_text())["cases"] for name in ("made", "read"))
    assert [case["said"] for case in first] == [case["said"] for case in second]
    assert main(["needle", str(TEXT), "--model", small, *made, "--write-data", data]) == 0
    assert "door code" in Path(data).read_text()


def test_calibrate_and_use_it(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cal"
    made = ["--segments", "3", "--prompts", "3", "--segment-len", "128", "--heads"]
    monkeypatch.setattr(measuring, "_NEEDLES", 4)
    assert main(["calibrate", str(TEXT), "--model", small, *made, "--out", str(out), *TINY]) == 0
    table = capsys.readouterr().out
    assert re.search(r"^layer 5 +-?\d", table, re.M)
    assert re.search(r"^evidence head +needles found$", table, re.M)
    assert {path.name for path in out.glob("*.png")} == {"calibration.png", "heads.png"}
    file = out / "calibration.safetensors"
    bias = calibrate_files(Setup(small, ("homer",)), segments=1, prompts=0, segment_len=128).bias
    assert len((out / "calibration.csv").read_text().splitlines()) == 1 + bias.numel()
    run = ["passkey", "--model", small, "--context-lengths", "300", "--samples", "1", "--method", "homer", *TINY]
    run += ["--significance", "standardized"]
    assert main([*run, "--calibration", f"homer={file}", "--out", str(tmp_path)]) == 0
    settings = json.loads((tmp_path / "passkey.json").read_text())["settings"]
    assert settings["calibration"] == {"homer": "calibration.safetensors"}
    assert settings["resolved"]["homer"]["calibration"]["segments"] == 3
    assert settings["resolved"]["homer"]["config"]["significance"] == "standardized"
    assert main([*run, "--calibration", "none", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "passkey.json").read_text())["settings"]["resolved"]["homer"]["calibration"] is None


def test_each_homer_method_has_its_own_calibration(small: str) -> None:
    files = {"homer": Calibration(torch.zeros(6, 256)), "homer-yarn": Calibration(torch.ones(6, 512))}
    homer, yarn = open_methods(Setup(small, ("homer", "homer-yarn"), calibration=files))
    assert homer.model.calibration is files["homer"]
    assert yarn.model.calibration is files["homer-yarn"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["passkey", "--context-lengths", "20"], "a context length of 20 tokens leaves"),
        (["passkey", "--calibration", "a.pt", "b.pt"], "several calibrations need the method of each"),
        (["passkey", "--calibration", "none.pt", "--method", "homer", "--samples", "1"], "no calibration at none.pt"),
        (["passkey", "--model", "no/such"], "no tokenizer for 'no/such'"),
        (["needle"], "no haystack"),
        (["needle", str(TEXT), "--data", "x.jsonl"], "haystack is for cases made on the spot"),
        (["needle", "--data", "x.jsonl", "--keys", "2"], "needles is for cases made on the spot"),
        (["passkey", "--data", "x.jsonl", "--context-lengths", "300"], "context_lengths is for cases made on the spot"),
        (["passkey", "--data", "x.jsonl", "--write-data", "y.jsonl"], "leave --data or --write-data out"),
        (["needle", "none.txt"], "no file at none.txt"),
        (["calibrate", str(TEXT)], "nowhere to write"),
        (["calibrate", str(TEXT), "--out", "x", "--method", "plain"], "homer or homer-yarn, not for plain"),
        (["perplexity", "none.txt"], "no file at none.txt"),
    ],
)
def test_bad_arguments_are_one_line(
    small: str, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    given = arguments if "--model" in arguments else [*arguments, "--model", small]
    assert main([*given, "--no-progress"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("homer: ")
    assert words in last


def test_without_matplotlib_the_table_still_comes(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = ["passkey", "--model", small, "--context-lengths", "200", "--samples", "1", "--method", "homer", *TINY]
    assert main([*run, "--out", str(tmp_path)]) == 0
    assert "homer-integrations[viz]" in capsys.readouterr().out
    assert (tmp_path / "passkey.csv").is_file()


def test_what_ran_out_of_memory_is_a_dash(tmp_path: Path) -> None:
    rows = [{"method": "plain", "length": n, "depth": d, "samples": 1, "accuracy": a}
            for n, d, a in ((100, 0.0, 1.0), (100, 1.0, 0.0), (200, 0.0, None), (200, 1.0, None))]  # fmt: skip
    report = Report("passkey", "accuracy", {}, tuple(rows), (), 0.0)
    assert report.table().splitlines()[1].split() == ["plain", "0.50", "-"]
    pytest.importorskip("matplotlib")
    assert draw(report, tmp_path / "a" / "figure.svg").read_text().count("<svg") == 1
    with pytest.raises(InputError, match="cannot draw"):
        draw(report, tmp_path / "figure.docx")
