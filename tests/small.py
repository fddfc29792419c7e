"""What several tests set up: a small random Llama with the shipped tokenizer, and the scripts of benchmarks/."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from homer import Calibration, CompactCache, HomerConfig, HomerModel
from homer.backends.loading import MINI

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load_benchmark(file: str, name: str = "") -> ModuleType:
    """A script, which finds those that it imports beside it."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name or file, BENCHMARKS / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name or file] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def save_small(folder: Path, layers: int = 6, window: int = 256, hidden: int = 32) -> Path:
    """For tests in which answers need not be right."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=window,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def asked_small(folder: Path, window: int = 256) -> HomerModel:
    """The same with question heads, which need not find anything."""
    heads = Calibration(torch.zeros(6, 0), {"team": [[3, 1], [1, 0]]}, question_heads=torch.eye(6, 2) + 0.1)
    config = HomerConfig(max_chunk_len=240, target_len=64)
    return HomerModel.from_pretrained(save_small(folder, window=window), config=config, calibration=heads)


def damaged(data: bytes, at: int) -> bytes:
    """The data with one bit of a byte changed; `at` may count from the end."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def assert_same(ours: CompactCache, one: CompactCache) -> None:
    """Two compact caches, to the last bit."""
    assert ours.kept_tokens.tolist() == one.kept_tokens.tolist()
    assert ours.survived is not None
    assert one.survived is not None
    assert ours.survived.tolist() == one.survived.tolist()
    for name in ("logits", "relevance", "position_ids"):
        assert torch.equal(getattr(ours, name), getattr(one, name)), name
    for a, b in zip((*ours.keys, *ours.values), (*one.keys, *one.values), strict=True):
        assert torch.equal(a, b)
