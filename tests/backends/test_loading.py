"""Loading: what a model's folder may not make this library do."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from homer import HomerError, HomerModel, UnsupportedModelError
from homer.compat import HomerForCausalLM
from homer.experiments.methods import Setup
from tests.conftest import GOLDEN, tiny_llama

CODE = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
pathlib.Path({ran!r}).touch()
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Tokenizer
"""


@pytest.fixture
def bringing_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose folder has code of its own, and somebody who says yes to all questions."""
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "code.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    names = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard-of", "auto_map": names}))
    tokenizer = {"tokenizer_class": "Unheard", "auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 10))
    return folder


def never_asked(*_: Any) -> str:
    raise AssertionError("a question was asked")


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": False}, {"trust_remote_code": None}])
def test_code_that_a_model_brings_is_not_run_unasked(
    bringing_code: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", never_asked)
    with pytest.raises(UnsupportedModelError, match="trust_remote_code"):
        HomerModel.from_pretrained(bringing_code, **options)
    with pytest.raises(ValueError, match="trust_remote_code"):
        HomerForCausalLM.from_pretrained(bringing_code, homer_args={}, **options)
    with pytest.raises(HomerError, match="trust_remote_code"):
        Setup(model=str(bringing_code)).tokenizer()
    assert not (bringing_code.parent / "ran").exists()


def test_code_that_only_a_tokenizer_brings(
    bringing_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", never_asked)
    for file in (GOLDEN / "models" / "mha12").iterdir():
        (bringing_code / file.name).write_bytes(file.read_bytes())
    tokenizer = {"tokenizer_class": "Unheard", "auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}
    (bringing_code / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UnsupportedModelError, match="tokenizer .* give trust_remote_code=True"):
        HomerModel.from_pretrained(bringing_code)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("able", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_16_bits_stay_where_the_cpu_computes_them(
    able: bool, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homer.backends.loading.computes_16_bits", lambda: able)
    tiny_llama().to(torch.bfloat16).save_pretrained(tmp_path)
    assert HomerModel.from_pretrained(tmp_path).decoder.dtype == dtype
    assert HomerModel.from_pretrained(tmp_path, dtype="auto").decoder.dtype == torch.bfloat16
