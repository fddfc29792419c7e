"""The reference implementation's numbers, by every public way in."""

from typing import Any

import pytest
import torch
from conftest import CASES, GOLDEN
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from homer import HomerConfig, HomerForCausalLM, HomerModel, patch

TOLERANCE = 2e-4


def settings(case: dict[str, Any]) -> dict[str, int]:
    return {name: case[name] for name in ("max_chunk_len", "target_len", "layers_warmup")}


def load(name: str, fast: bool | None = None, **changes: Any) -> tuple[HomerModel, dict[str, torch.Tensor]]:
    case = CASES[name]
    config = HomerConfig(**settings(case), refresh_suffix=False, significance="paper", **changes)
    model = HomerModel.from_pretrained(
        GOLDEN / "models" / case["model"],
        config=config,
        calibration=GOLDEN / case["bias"],
        rope_scaling=case["yarn_factor"],
        fast=fast,
    )
    return model, load_file(GOLDEN / f"{name}.safetensors")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("batch", "fast"), [(1, False), (3, False), (1, True), (3, True)])
def test_compress_forward_generate(name: str, batch: int, fast: bool) -> None:
    model, golden = load(name, fast, chunk_batch_size=batch)
    cache = model.compress(golden["prefix_ids"], golden["context_ids"], golden["suffix_ids"])
    assert cache.kept_tokens.tolist() == golden["kept_tokens"].tolist()
    assert cache.position_ids.tolist() == golden["position_ids"].tolist()
    assert cache.next_position == CASES[name]["last_position_id"] + 1
    assert len(cache) == CASES[name]["final_len"]
    for tensor_name, expected in golden.items():
        kind, _, layer = tensor_name.partition(".")
        if kind in ("key", "value"):
            states = cache.keys if kind == "key" else cache.values
            torch.testing.assert_close(states[int(layer)], expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(cache.logits, golden["last_logits"], atol=TOLERANCE, rtol=0)
    logits = model.forward(golden["forward_ids"], cache)
    torch.testing.assert_close(logits, golden["forward_logits"], atol=TOLERANCE, rtol=0)
    assert model.generate(cache, max_new_tokens=21).token_ids == golden["greedy_ids"].flatten().tolist()


@pytest.mark.parametrize("name", CASES)
def test_plan_is_the_reference_schedule(name: str) -> None:
    model, golden = load(name)
    plan = model.plan(*(golden[f"{part}_ids"].shape[1] for part in ("prefix", "context", "suffix")))
    seen = {(n["first_layer"], n["first_layer"] + n["n_layers"]): [] for n in CASES[name]["nodes"]}
    for node in CASES[name]["nodes"]:
        seen[node["first_layer"], node["first_layer"] + node["n_layers"]].append((node["len_in"], node["len_out"]))
    assert plan.layers == tuple(sorted(seen))
    for level, layers in enumerate(plan.layers):
        assert list(zip(plan.lengths[level], plan.targets[level], strict=True)) == seen[layers]


@pytest.mark.parametrize("name", ["four_uneven", "eight_gqa"])
def test_the_original_ways_in(name: str) -> None:
    case, golden = CASES[name], load_file(GOLDEN / f"{name}.safetensors")
    folder, arguments = GOLDEN / "models" / case["model"], settings(case) | {"bias_path": str(GOLDEN / case["bias"])}
    loaded = HomerForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, homer_args=arguments)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    before = plain(golden["forward_ids"]).logits
    patched = patch(plain, **arguments)
    assert patched is plain
    for model in (loaded, patched):
        prefix = model.create_homer_prefix(golden["prefix_ids"], golden["context_ids"], golden["suffix_ids"])
        for _ in range(2):  # the prefix is not used up
            logits = model(golden["forward_ids"], homer_prefix=prefix).logits
            torch.testing.assert_close(logits, golden["forward_logits"], atol=TOLERANCE, rtol=0)
            new = model.generate(homer_prefix=prefix, max_new_tokens=21, do_sample=False)
            assert new.tolist() == [golden["greedy_ids"].flatten().tolist()]
        torch.testing.assert_close(model(golden["forward_ids"]).logits, before)
