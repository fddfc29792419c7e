"""homer doctor: every line says what is, and where something is missing, why."""

import dataclasses
import importlib.metadata
import json
from pathlib import Path

import pytest
import torch

from homer import HomerConfig, HomerModel, InputError
from homer.calibrating.on_demand import remembered_path
from homer.cli import doctor, main
from homer.cli.doctor import environment, lines, of_model
from tests.small import save_small

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "speed"


def told(model: HomerModel, tokens: int = 65_536) -> dict[str, str]:
    return dict(of_model(model, tokens))


def test_it_tells_of_versions_and_of_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    missing = importlib.metadata.PackageNotFoundError

    def installed(name: str) -> str:
        if name in ("ray", "homer"):
            raise missing(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", installed)
    facts = dict(environment())
    assert f"torch {torch.__version__}" in facts["needed"]
    assert "fastapi" in facts["optional"]
    assert "ray" in facts["not there"]
    assert "beware" not in facts


def test_another_package_named_homer_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    assert "pip uninstall homer" in dict(environment())["beware"]


def test_on_a_processor_the_plain_path_runs_and_it_says_why(mini: HomerModel) -> None:
    facts = told(mini)
    assert facts["backend"] == "the model's own code; the fast path is for CUDA, and the model lies on cpu"
    assert facts["calibration"].startswith("there, given or beside the model")
    assert facts["model"] == "LlamaForCausalLM, 16 layers, window 1,024, float32 on cpu"


def test_a_fast_model_is_told_of(mini: HomerModel) -> None:
    assert told(HomerModel(mini.model, mini.tokenizer, mini.config, fast=True))["backend"] == "fast: fused kernels"


def test_whether_a_calibration_is_there_is_told_and_nothing_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMER_CALIBRATIONS", str(tmp_path / "kept"))
    model = HomerModel.from_pretrained(save_small(tmp_path / "model"))
    assert told(model)["calibration"].startswith("none yet: measured once")
    assert model.calibration is None
    path = remembered_path(model)
    path.parent.mkdir()
    HomerModel.from_pretrained("mini").calibration.save(path)
    assert doctor._calibration(model) == f"remembered in {path}"
    model.tokenizer = None
    path.unlink()
    assert "without a tokenizer" in told(model)["calibration"]


@pytest.mark.parametrize(("shape", "heads", "feed_forward"), [("llama-2-7b", 32, 11008), ("llama-3.1-8b", 8, 14336)])
def test_the_memory_foretold_is_what_was_measured(shape: str, heads: int, feed_forward: int) -> None:
    from homer import plan_merge
    from homer.plan.footprint import peak_bytes

    rows = json.loads((RESULTS / f"{shape}-h200.json").read_text())["rows"]
    measured = {row["tokens"]: row["over_weights_gb"] for row in rows if row["method"] == "homer"}
    assert len(measured) >= 2
    settings = {"max_chunk_len": 2048, "target_len": 2048, "max_initial_chunk_len": 2112}
    for tokens, gigabytes in measured.items():
        plan = plan_merge(32, tokens - 64, 32, layers=32, layers_warmup=12, **settings)
        foretold = peak_bytes(plan, 2 * heads * 128 * 2, (6 * 4096 + 3 * feed_forward) * 2)
        assert foretold / 1e9 == pytest.approx(gigabytes, rel=0.15), tokens


def test_memory_grows_with_the_logarithm_of_the_context(mini: HomerModel) -> None:
    from homer.plan.footprint import bytes_of, peak_bytes

    entry, working = bytes_of(mini.model.config, 4)
    sizes = [peak_bytes(mini.plan(16, n, 32), entry, working, 4) for n in (16_000, 64_000, 256_000)]
    assert sizes[0] < sizes[1] < sizes[2] < 1.5 * sizes[0]
    assert entry == 2 * 8 * 32 * 4


def test_leaves_that_run_together_and_wait_for_one_another_are_counted(mini: HomerModel) -> None:
    from homer.plan.footprint import peak_bytes

    plan = mini.plan(16, 16_000, 32)
    sizes = [peak_bytes(plan, 2, 3, batch) for batch in (1, 2, 8, 64, 128)]
    longest, kept, (_, layers) = max(plan.lengths[0]), max(plan.targets[0]), plan.layers[0]
    assert sizes[1] >= 2 * (longest * (layers * 2 + 3) + kept * layers * 2)
    assert sizes == [*sorted(set(sizes[:4])), sizes[3]]  # there are 64 leaves
    one, several = (
        told(HomerModel(mini.model, mini.tokenizer, dataclasses.replace(mini.config, chunk_batch_size=batch)), 16_000)
        for batch in (None, 8)
    )
    assert one["memory"] != several["memory"]


def test_a_number_of_tokens_that_is_none_is_refused(mini: HomerModel) -> None:
    with pytest.raises(InputError, match="tokens=0"):
        told(mini, 0)


def test_columns() -> None:
    assert list(lines(iter([("model", "a"), ("GPU", "none")]))) == ["model               a", "GPU                 none"]


def test_the_command_prints_it(capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", "--tokens", "20000", "--target-len", "256"]) == 0
    printed = capsys.readouterr().out
    assert "256 of 20,000 tokens stay" in printed
    assert "for 20,000 tokens" in printed


def test_what_is_installed_is_told_even_where_the_model_cannot_be_loaded(capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", "--model", "nowhere/nothing"]) == 2
    said = capsys.readouterr()
    assert "torch" in said.out
    assert "nowhere/nothing" in said.err


def test_a_short_context_needs_no_plan_beyond_one_chunk(mini: HomerModel) -> None:
    model = HomerModel(mini.model, mini.tokenizer, HomerConfig(max_chunk_len=512), calibration=False)
    assert told(model, 200)["chunks"].startswith("1 of at most")
