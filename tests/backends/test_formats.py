"""Models as they are found: GGUF files, adapters, quantized weights, and options that must not be dropped."""

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from gguf_files import write_gguf
from small import save_small
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM

import homer.backends.packages
from homer import ConfigError, HomerConfig, HomerModel, UnsupportedModelError
from homer.cli import main
from homer.cli.commands import _HOMER
from homer.compat import HomerForCausalLM
from homer.experiments.methods import Setup
from homer_integrations.serve.settings import ServeSettings
from homer_integrations.shared.settings import HomerSettings

IDS = [list(range(5)), list(range(40)), list(range(7))]
WHOLE = torch.tensor([[token for part in IDS for token in part]])
LORA = {"lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("model"), layers=4, hidden=64)


@pytest.fixture(scope="module")
def gguf_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(folder, tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    model = adapted(folder)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def adapted(folder: Path, **settings: Any) -> peft.PeftModel:
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_dropout=0.5, **LORA | settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    return model


def check_same(model: HomerModel, plain: Any, tolerance: float = 2e-5) -> None:
    """One chunk gives what the plain model gives; more than its window holds is compressed."""
    with torch.no_grad():
        expected = plain(WHOLE).logits[:, -1].float()
    torch.testing.assert_close(model.compress(*IDS).logits, expected, atol=tolerance, rtol=1e-4)
    assert len(model.compress([1, 2], list(range(600)), [3, 4])) == model.window // 2


# -- GGUF


def test_a_gguf_file_is_a_model_by_every_name(folder: Path, gguf_file: Path) -> None:
    plain = HomerModel.from_pretrained(folder)
    ways: list[tuple[Path, dict[str, Any]]] = [
        (gguf_file, {}),
        (gguf_file.parent, {"gguf_file": gguf_file.name}),
        (gguf_file.parent, {}),
    ]
    for path, options in ways:
        model = HomerModel.from_pretrained(path, calibration=False, **options)
        check_same(model, plain.model)
        assert model.decoder.dtype == torch.float32
        documents = ["The code is 48213.", "Another one."]
        expected, found = (m.build_prompt("What is it?", documents) for m in (plain, model))
        for part in ("prefix_ids", "context_ids", "suffix_ids"):
            assert getattr(found, part).tolist() == getattr(expected, part).tolist()
        assert ".gguf" in model.name or path == gguf_file.parent
    assert model.decoder.fingerprint == plain.decoder.fingerprint


def test_blocks_of_a_gguf_file_become_plain_weights(folder: Path, tmp_path: Path) -> None:
    file = write_gguf(folder, tmp_path / "small.gguf", quantized=True)
    model = HomerModel.from_pretrained(file, dtype="bfloat16", fast=True, calibration=False)
    assert type(model.model.model.layers[0].mlp.up_proj) is nn.Linear
    assert model.decoder.dtype == torch.bfloat16
    check_same(model, model.model, 0.1)
    model.model.save_pretrained(tmp_path / "saved")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.model.norm.weight, model.model.model.norm.weight)


def test_several_gguf_files_in_a_folder(gguf_file: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(gguf_file, tmp_path / name)
    with pytest.raises(ConfigError, match=r"holds 2 GGUF files: name one, gguf_file='a.gguf'"):
        HomerModel.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="leave one of them out"):
        HomerModel.from_pretrained(tmp_path / "a.gguf", gguf_file="b.gguf")
    assert HomerModel.from_pretrained(tmp_path, gguf_file="b.gguf").window == 256


def test_what_is_no_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UnsupportedModelError, match="cannot load"):
        HomerModel.from_pretrained(tmp_path / "bad.gguf")
    with pytest.raises(UnsupportedModelError, match="cannot load"):
        HomerModel.from_pretrained(tmp_path / "none.gguf")


def test_all_ways_in_take_a_gguf_file(gguf_file: Path) -> None:
    assert HomerSettings(model=gguf_file).load().window == 256
    by_option = HomerSettings(model=gguf_file.parent, model_kwargs={"gguf_file": gguf_file.name})
    assert by_option.load().window == 256
    assert Setup(model=gguf_file).window() == 256
    assert Setup(model=gguf_file).tokenizer().chat_template
    assert HomerForCausalLM.from_pretrained(gguf_file, homer_args={}).homer.window == 256


def test_commands_take_a_gguf_file(gguf_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("The code is 48213.")
    (tmp_path / "q.jsonl").write_text('{"question": "What is the code?"}')
    model = ["--model", str(gguf_file.parent), "--gguf-file", gguf_file.name, "--device", "cpu"]
    asked = ["ask", str(tmp_path / "a.txt"), "--question", "What is the code?", "--max-new-tokens", "3"]
    assert main([*asked, *model]) == 0
    answers = tmp_path / "answers.jsonl"
    batch = ["batch", str(tmp_path / "q.jsonl"), "--documents", str(tmp_path / "a.txt"), "--out", str(answers)]
    assert main([*batch, "--max-tokens", "3", "--no-progress", *model]) == 0
    assert capsys.readouterr().out.startswith(json.loads(answers.read_text())["answer"])
    serve = _HOMER.get_command(None, "serve")  # type: ignore[arg-type]
    assert serve is not None
    served = serve.make_context("serve", list(model)).params
    given = {name: served[name] for name in ("model", "gguf_file", "device")}
    assert ServeSettings(**given).load().window == 256


# -- adapters


def test_an_adapter_is_active(folder: Path, adapter: Path) -> None:
    expected = adapted(folder).eval()
    model = HomerModel.from_pretrained(adapter, calibration=False)
    check_same(model, expected)
    assert model.name == str(adapter)
    assert model.tokenizer is not None  # the base's
    assert model.generate(model.compress(*IDS), 6).token_ids == greedy(expected, 6)
    base = HomerModel.from_pretrained(folder)
    assert model.decoder.fingerprint != base.decoder.fingerprint


def test_an_adapter_beside_the_model_it_names(folder: Path, adapter: Path) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    shutil.copytree(folder, adapter / "base")
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "base"}))
    check_same(HomerModel.from_pretrained(adapter, calibration=False), adapted(folder).eval())


@pytest.mark.parametrize("base", [None, 3, "no/such"])
def test_an_adapter_without_its_model(adapter: Path, base: Any) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))
    with pytest.raises(UnsupportedModelError):
        HomerModel.from_pretrained(adapter)


def test_models_with_adapters_that_are_loaded_already(folder: Path) -> None:
    model = adapted(folder)  # in training: its dropout is not for us
    wrapped = HomerModel(model, calibration=False)
    check_same(wrapped, adapted(folder).eval())
    assert model.training
    check_same(
        HomerModel(adapted(folder).eval().merge_and_unload(), fast=True, calibration=False), adapted(folder).eval()
    )


def test_adapters_are_told_apart_by_more_than_their_weights(folder: Path) -> None:
    models = [adapted(folder), adapted(folder, lora_alpha=32), adapted(folder)]
    models[2].base_model.disable_adapter_layers()
    assert len({HomerModel(model).decoder.fingerprint for model in models}) == 3


def test_virtual_tokens_are_refused(folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = peft.get_peft_model(base, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(UnsupportedModelError, match="4 virtual tokens"):
        HomerModel(model)


def greedy(plain: Any, count: int) -> list[int]:
    options = {"attention_mask": torch.ones_like(WHOLE), "do_sample": False, "pad_token_id": 0}
    return plain.generate(input_ids=WHOLE, max_new_tokens=count, **options)[0, WHOLE.shape[1] :].tolist()


# -- quantized weights


def test_torchao(folder: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    from transformers import TorchAoConfig

    kinds = (
        quantization.Int8WeightOnlyConfig(),
        quantization.Int8DynamicActivationInt8WeightConfig(),
        quantization.Float8WeightOnlyConfig(),
    )
    found = set()
    for kind in kinds:
        model = HomerModel.from_pretrained(folder, quantization_config=TorchAoConfig(kind), calibration=False)
        check_same(model, model.model)
        found.add(model.decoder.fingerprint)
        with pytest.raises(UnsupportedModelError, match="quantized"):
            HomerModel(model.model, fast=True)
    assert len(found) == len(kinds)


class Scaled(nn.Parameter):
    """Weights of few bits with a scale beside them, as bitsandbytes has them."""


class State:
    def __init__(self, scale: float) -> None:
        self.absmax, self.blocksize, self.inner = torch.tensor([scale]), 64, None


def test_scales_that_hang_on_a_weight_count(folder: Path) -> None:
    def quantized(scale: float, blocksize: int = 64) -> str:
        model = LlamaForCausalLM.from_pretrained(folder)
        weight = Scaled(model.model.layers[1].mlp.up_proj.weight.detach(), requires_grad=False)
        weight.quant_state = State(scale)
        weight.quant_state.blocksize = blocksize
        model.model.layers[1].mlp.up_proj.weight = weight
        return HomerModel(model).decoder.fingerprint

    assert quantized(1.0) == quantized(1.0)
    assert len({quantized(1.0), quantized(0.3), quantized(1.0, 32)}) == 3


def test_weights_in_buffers_count(folder: Path) -> None:
    def packed(first: int) -> str:
        model = LlamaForCausalLM.from_pretrained(folder)
        model.model.layers[0].mlp.register_buffer("qweight", torch.tensor([[first, 2]], dtype=torch.int32))
        return HomerModel(model).decoder.fingerprint

    assert packed(1) == packed(1) != packed(3)


# -- packages that are not there


@pytest.mark.parametrize(
    ("package", "line"), [("gguf", r"homer-integrations\[gguf\]"), ("accelerate", r"homer-integrations\[accelerate\]")]
)
def test_a_missing_package_for_gguf(gguf_file: Path, package: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homer.backends.packages, "installed", lambda name: name != package)
    with pytest.raises(UnsupportedModelError, match=f"needs the package {package}: pip install {line}"):
        HomerModel.from_pretrained(gguf_file)


def test_missing_packages(folder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homer.backends.packages, "installed", lambda name: False)
    with pytest.raises(UnsupportedModelError, match=r"needs the package peft: pip install homer-integrations\[peft\]"):
        HomerModel.from_pretrained(adapter)
    with pytest.raises(UnsupportedModelError, match=r"device_map needs the package accelerate"):
        HomerModel.from_pretrained(folder, device_map="auto")
    quantized = BitsAndBytesConfig(load_in_8bit=True)
    monkeypatch.setattr(homer.backends.packages, "installed", lambda name: name != "bitsandbytes")
    with pytest.raises(UnsupportedModelError, match=r"needs the package bitsandbytes: pip install bitsandbytes"):
        HomerModel.from_pretrained(folder, quantization_config=quantized)


@pytest.mark.parametrize(("method", "package"), [("torchao", "torchao"), ("gptq", "gptqmodel"), ("hqq", "hqq")])
def test_a_folder_of_quantized_weights_without_the_package(
    folder: Path, tmp_path: Path, method: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homer.backends.packages, "installed", lambda name: name != package)
    shutil.copytree(folder, tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UnsupportedModelError, match=f"quantized by {method} needs the package {package}: pip install"):
        HomerModel.from_pretrained(tmp_path / "model")


# -- options


def test_torch_dtype_is_dtype(folder: Path) -> None:
    for options in ({"torch_dtype": torch.bfloat16}, {"torch_dtype": "bfloat16"}, {"dtype": "torch.bfloat16"}):
        assert HomerModel.from_pretrained(folder, **options).decoder.dtype == torch.bfloat16
    assert HomerModel.from_pretrained(folder, dtype="float16", torch_dtype=torch.float16).decoder.dtype == torch.float16
    assert HomerSettings(model=folder, model_kwargs={"torch_dtype": "bfloat16"}).load().decoder.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float16", "torch_dtype": "bfloat16"}, "two names of one option"),
        ({"dtype": "bf16"}, "dtype='bf16' is none of torch's"),
        ({"torch_dtype": "nn"}, "dtype='nn' is none of torch's"),
        ({"dtpye": "float16"}, "'dtpye' is an option neither .* did you mean dtype"),
        ({"unheard_of": 1}, "'unheard_of' is an option neither"),
        ({"load_in_4bit": True}, r"BitsAndBytesConfig\(load_in_4bit=True\)"),
        ({"use_flash_attention_2": True}, "attn_implementation='flash_attention_2'"),
        ({"output_loading_info": True}, "output_loading_info"),
        ({"device": "cuda:99"}, "device='cuda:99', but torch"),
        ({"device": "gpu"}, "device='gpu' is none"),
        ({"device": "cpu", "device_map": "auto"}, "leave one of them out"),
    ],
)
def test_options_that_cannot_be_honoured(folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        HomerModel.from_pretrained(folder, **options)


def test_options_without_effect_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    HomerModel.from_pretrained(folder, low_cpu_mem_usage=True)
    assert "low_cpu_mem_usage=True has no effect" in caplog.text


def test_options_that_are_honoured(folder: Path) -> None:
    model = HomerModel.from_pretrained(folder, device="cpu", max_position_embeddings=128, local_files_only=True)
    assert (model.window, model.decoder.device.type) == (128, "cpu")
    settings = HomerSettings(model=folder, device="cpu")
    assert settings.load() is HomerSettings(model=folder, device="cpu").load()
    config = HomerConfig(max_chunk_len=64)
    assert HomerModel.from_pretrained(folder, config=config, model_config=model.model.config).window == 128
