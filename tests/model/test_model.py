import json
import logging
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, random_ids, tiny_llama
from transformers import AutoModelForCausalLM

from homer import (
    ConfigError,
    GenerationError,
    HomerConfig,
    HomerError,
    HomerModel,
    InputError,
    UnsupportedModelError,
    patch,
)
from homer.backends.loading import MINI
from homer.demo import DOCUMENTS as DEMO
from homer.text.files import read_documents

TEXTS = [document["text"] for document in read_documents([DEMO])]
FILLER = TEXTS[0]
DOCUMENTS = [
    {"title": "Garden rules", "text": TEXTS[3][:1000]},
    {
        "title": "Office guide",
        "text": f"{TEXTS[0][:2500]}\n\nThe door code for the north gate is 48213.\n\n{TEXTS[1][:2500]}",
    },
]
QUESTION = "What is the door code for the north gate?"


def test_ask_finds_the_answer_and_its_source(mini: HomerModel) -> None:
    answer = mini.ask(QUESTION, DOCUMENTS)
    assert answer.text == str(answer) == "48213"
    assert answer.finish_reason == "stop"
    best = answer.sources[0]
    assert (best.index, best.title) == (1, "Office guide")
    passage = best.passages[0]
    assert passage.text == "The door code for the north gate is 48213."
    assert DOCUMENTS[1]["text"][passage.start : passage.end] == passage.text
    assert "48213" in "".join(DOCUMENTS[1]["text"][a:b] for a, b in passage.spans)
    assert {source.index for source in answer.sources} == {0, 1}
    for source in answer.sources:
        assert 0 < source.kept <= source.tokens
        assert all(0 < p.kept <= p.tokens for p in source.passages)
        assert source.share == source.kept / source.tokens
    assert answer.usage.input_tokens > mini.window
    assert answer.usage.kept_tokens <= 512
    assert answer.usage.output_tokens == 6


def test_what_fits_the_window_is_the_plain_model_to_the_logit(mini: HomerModel) -> None:
    documents = [{"title": "Office guide", "text": f"{FILLER[:1500]} The door code for the north gate is 48213."}]
    prompt = mini.build_prompt(QUESTION, documents)
    assert len(prompt) > 300
    cache = mini.compress_prompt(prompt)
    ids = torch.cat([prompt.prefix_ids, prompt.context_ids, prompt.suffix_ids])[None]
    assert len(cache) == ids.shape[1] == cache.input_tokens
    torch.testing.assert_close(cache.logits, mini.model(ids).logits[:, -1], atol=1e-4, rtol=1e-4)
    new = mini.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    expected = mini.tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True)
    assert mini.ask(QUESTION, documents, max_new_tokens=20).text == expected


def test_between_a_chunk_and_the_window_nothing_is_pruned(mini: HomerModel) -> None:
    prompt = mini.build_prompt(QUESTION, [FILLER[:2200]])
    assert 512 < len(prompt) < mini.window - 128
    assert len(mini.compress_prompt(prompt)) == len(prompt)


def test_yarn_by_one_argument(caplog: pytest.LogCaptureFixture) -> None:
    model = HomerModel.from_pretrained(GOLDEN / "models" / "mha12", rope_scaling=4)
    assert model.window == 1024
    assert model.decoder.rope["rope_type"] == "yarn"
    assert model.compress(*random_ids(4, 3000, 5)).config.max_chunk_len == 512
    linear = HomerModel.from_pretrained(
        GOLDEN / "models" / "mha12", rope_scaling={"rope_type": "linear", "factor": 2.0}
    )
    assert linear.window == 512
    with pytest.raises(ConfigError, match=r"rope_scaling=0\.5"):
        HomerModel.from_pretrained(GOLDEN / "models" / "mha12", rope_scaling=0.5)


def test_defaults_come_from_the_model(tiny: HomerModel) -> None:
    resolved = HomerConfig().resolve(4096, 32)
    assert (resolved.max_chunk_len, resolved.target_len, resolved.layers_warmup) == (2048, 2048, 12)
    assert HomerConfig(max_chunk_len=100).resolve(4096, 80).target_len == 100
    assert HomerConfig().resolve(32768, 32, sliding_window=4096).max_chunk_len == 4096


def test_device_map_with_offloading(tmp_path: Path) -> None:
    tiny_llama(layers=4).save_pretrained(tmp_path / "model")
    parts = random_ids(4, 150, 5)
    config = HomerConfig(max_chunk_len=32, layers_warmup=2)
    expected = HomerModel.from_pretrained(tmp_path / "model", config=config).compress(*parts)
    device_map = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    device_map |= {f"model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(4)}
    model = HomerModel.from_pretrained(
        tmp_path / "model", config=config, device_map=device_map, offload_folder=str(tmp_path / "offload")
    )
    assert any(p.device.type == "meta" for p in model.model.parameters())
    cache = model.compress(*parts)
    assert cache.kept_tokens.tolist() == expected.kept_tokens.tolist()
    torch.testing.assert_close(cache.logits, expected.logits)
    assert len(model.generate(cache, 4).token_ids) == 4


def test_ids_in_any_form(tiny: HomerModel) -> None:
    prefix, context, suffix = random_ids(4, 100, 5)
    expected = tiny.compress(prefix, context, suffix).kept_tokens
    for form in (lambda t: t[None], lambda t: t.tolist(), lambda t: t.to(torch.int32)):
        assert torch.equal(tiny.compress(form(prefix), form(context), form(suffix)).kept_tokens, expected)
    assert len(tiny.compress([], context, suffix)) == 5 + 2 * 13


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (([1], [], [2]), "context holds 0 tokens"),
        (([1], [2], []), "suffix holds 0 tokens"),
        ((list(range(30)), list(range(90)), list(range(5))), "take 35 of max_chunk_len=32"),
        (([1], [[1, 2], [3, 4]], [2]), r"context_ids has shape \(2, 2\)"),
        (([1], [1.5], [2]), "dtype torch.float32"),
        (([1], [400], [2]), "id 400, but the vocabulary has 300"),
        (([1], [-1], [2]), "id -1"),
    ],
)
def test_bad_parts(tiny: HomerModel, parts: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny.compress(*parts)


def test_bad_configurations(tiny: HomerModel) -> None:
    for settings, words in (
        ({"max_chunk_len": 2}, "max_chunk_len=2 is out of range"),
        ({"target_len": 1.5}, "no whole number"),
        ({"layers_warmup": True}, "no whole number"),
        ({"suffix_budget": None}, "no whole number"),
        ({"chunk_batch_size": 0}, "out of range"),
        ({"refresh_suffix": 1}, "no bool"),
        ({"max_chunk_len": 300}, "beyond the model's window of 256"),
        ({"layers_warmup": 9}, "the model has 6 layers"),
    ):
        with pytest.raises(ConfigError, match=words):
            tiny.compress(*random_ids(2, 50, 3), config=HomerConfig(**settings))
    with pytest.raises(ConfigError, match="target_len=6 leaves no room for 9 affix tokens"):
        tiny.compress(*random_ids(4, 50, 5), config=HomerConfig(max_chunk_len=32, target_len=6))
    with pytest.raises(ConfigError, match="unknown setting 'chunk_len'"):
        HomerConfig.from_dict({"chunk_len": 3})


def test_unknown_models_and_missing_tokenizers(tiny: HomerModel, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    for name in ("no-such-org/no-such-model", tmp_path / "none", tmp_path):
        with pytest.raises(UnsupportedModelError, match="give a hub id, a folder"):
            HomerModel.from_pretrained(name)
    with pytest.raises(InputError, match="without a tokenizer"):
        tiny.ask("Why?", ["Because."])


def test_progress_and_logs(tiny: HomerModel, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "homer"):
        tiny.compress(*random_ids(4, 200, 5))
    assert [r.getMessage() for r in caplog.records] == ["compressing 209 tokens to 31 in 16 chunks"]
    assert capfd.readouterr().err == ""
    tiny.compress(*random_ids(4, 200, 5), progress=True)
    assert "31/31" in capfd.readouterr().err


def test_patch_leaves_the_rest_as_it_was() -> None:
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "models" / "mha12")
    ids = torch.tensor([[5, 6, 7, 8]])
    before, text = model(ids).logits, model.generate(ids, max_new_tokens=5, do_sample=False)
    patched = patch(model, max_chunk_len=64, target_len=64, layers_warmup=6)
    assert torch.equal(patched(ids).logits, before)
    assert torch.equal(patched(input_ids=ids).logits, before)
    assert torch.equal(patched.generate(ids, max_new_tokens=5, do_sample=False), text)
    assert isinstance(patched, type(model).__mro__[2])
    prefix = patched.create_homer_prefix([1, 2], list(range(300)), [3, 4])
    with pytest.raises(GenerationError, match="not both"):
        patched.generate(ids, homer_prefix=prefix)
    loss = patched(ids, homer_prefix=prefix, labels=ids).loss
    assert loss > 0
    again = patch(patched, max_chunk_len=32)
    assert len(again.create_homer_prefix([1, 2], list(range(300)), [3, 4])) == 32
    with pytest.raises(HomerError):
        patch(model, bias_path="none.pt")


def test_the_mini_model_is_small_and_carries_its_settings(mini: HomerModel) -> None:
    size = sum(path.stat().st_size for path in MINI.iterdir())
    assert size < 30_500_000
    assert mini.config.max_chunk_len == 512
    assert mini.window == 1024
