"""The ablations run, and the variant that the library does not have is the method where nothing is pruned."""

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small import load_benchmark

from homer import HomerModel
from homer.experiments import Setup, passkey_cases
from homer.experiments.cases import CaseTokenizer
from homer.merging.walk import Walk
from homer.significance.scoring import Scoring


@pytest.fixture(scope="module")
def ablations() -> ModuleType:
    return load_benchmark("ablations")


def parts_of(model: HomerModel, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    (case,) = passkey_cases(Setup(model), context_lengths=[length], samples=1)
    return CaseTokenizer(model.tokenizer).tokenize(case)


def test_without_pruning_all_variants_are_one(ablations: ModuleType, mini: HomerModel) -> None:
    parts = parts_of(mini, 300)
    said, kept = ablations.compressed(mini, mini.config, *parts)
    assert ablations.unrefined(mini, *parts)[0] == said
    assert len(kept) == sum(map(len, parts))


def test_lower_layers_keep_all(ablations: ModuleType, mini: HomerModel) -> None:
    parts = parts_of(mini, 900)
    plan = mini.plan(*map(len, parts))
    with torch.no_grad():
        root = ablations.fold(
            Walk(mini.decoder, plan, torch.cat(parts), Scoring(calibration=mini.calibration)), plan.height, 0
        )
    assert plan.height == 1
    assert root.entries.keys[0].shape[2] == sum(map(len, parts))
    assert root.entries.keys[-1].shape[2] == plan.lengths[1][0] < sum(map(len, parts))
    papers = dataclasses.replace(mini.config, significance="paper")
    cache = mini.compress(*parts, config=papers)  # the same tokens survive to the top
    assert root.tokens.tolist() == cache.kept_tokens.tolist()


def test_end_to_end(ablations: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--only", "as shipped", "suffix not refreshed", "lower layers keep all"]
    rows = ablations.main(["--context-lengths", "600", "--samples", "1", "--out", str(tmp_path), *only])
    assert [(row["variant"], row["task"]) for row in rows] == [
        (name, task) for name in only[1:] for task in ("passkey", "needle")
    ]
    assert rows[0]["accuracy"] == rows[0]["evidence"] == 1.0
    assert json.loads((tmp_path / "ablations.json").read_text())["rows"] == rows
    assert len((tmp_path / "ablations.csv").read_text().splitlines()) == 7
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_an_unknown_variant_is_refused(ablations: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"no variant is called \['loud'\]: the variants are as shipped"):
        ablations.main(["--only", "loud"])
