import os

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start: threads that wait for busy cores cost much

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from small import asked_small
from transformers import LlamaConfig, LlamaForCausalLM

from homer import HomerConfig, HomerModel

os.environ["HOMER_CALIBRATIONS"] = tempfile.mkdtemp(prefix="homer-calibrations-")  # not the user's own

GOLDEN = Path(__file__).parent / "golden"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "cases.json").read_text())
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def tiny_llama(
    layers: int = 6, window: int = 256, heads: int = 4, key_heads: int = 2, seed: int = 0
) -> LlamaForCausalLM:
    """A random Llama, small enough to run thousands of tokens in a moment."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=window,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def random_ids(*lengths: int, seed: int = 0, vocabulary: int = 300) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocabulary, (n,), generator=generator) for n in lengths]


@pytest.fixture(scope="session")
def tiny() -> HomerModel:
    return HomerModel(tiny_llama(), config=HomerConfig(max_chunk_len=32, target_len=32, layers_warmup=2))


@pytest.fixture(scope="session")
def mini() -> HomerModel:
    return HomerModel.from_pretrained("mini")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> HomerModel:
    return asked_small(tmp_path_factory.mktemp("small"))
