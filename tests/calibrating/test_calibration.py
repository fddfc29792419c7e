import os
import re
from pathlib import Path
from random import Random

import pytest
import torch
from conftest import GOLDEN, random_ids, tiny_llama

from homer import Calibration, CalibrationError, HomerConfig, HomerModel, calibrate, load_calibration
from homer.calibrating import measuring
from homer.calibrating.measuring import smooth
from homer.calibrating.synthetic import draw_segments, own_text
from homer.significance.scores import LEAST_DEVIATION


def test_it_is_the_mean_of_the_largest_logits(tiny: HomerModel) -> None:
    ids = random_ids(64)[0]
    result = calibrate(tiny, ids, segments=2, segment_len=32, batch_size=1)
    assert result.bias.shape == (6, 32)
    layer = tiny.model.model.layers[0].self_attn
    hidden = tiny.model.model.layers[0].input_layernorm(tiny.model.model.embed_tokens(ids.view(2, 32)))
    same = layer.q_proj(hidden)[:, -1].view(2, 2, 2, 8), layer.k_proj(hidden)[:, -1].view(2, 2, 1, 8)
    at_distance_0 = (same[0] * same[1]).sum(-1).flatten(1).amax(1) * layer.scaling  # rotation cancels out
    torch.testing.assert_close(result.bias[0, 0], at_distance_0.mean())
    assert result.metadata["segments"] == 2


def test_it_changes_what_survives(tiny: HomerModel) -> None:
    bias = calibrate(tiny, random_ids(3000)[0], segment_len=40)
    model = HomerModel(tiny.model, config=tiny.config, calibration=bias)
    parts = random_ids(4, 300, 5)
    assert model.compress(*parts).kept_tokens.tolist() != tiny.compress(*parts).kept_tokens.tolist()
    flat = HomerModel(tiny.model, config=tiny.config, calibration=torch.full((6, 64), 3.0))
    assert flat.compress(*parts).kept_tokens.tolist() == tiny.compress(*parts).kept_tokens.tolist()


def test_texts_and_ids(mini: HomerModel) -> None:
    text = "The harvest of early potatoes began in May. " * 20
    ids = mini.tokenizer(text, add_special_tokens=False).input_ids
    by_text = calibrate(mini, [text], segment_len=64, segments=1, prompts=2)
    by_ids = calibrate(mini, [ids], segment_len=64, segments=1, prompts=0)
    torch.testing.assert_close(by_text.bias, by_ids.bias)
    assert by_text.means.shape == by_text.deviations.shape == (16, 8, 64)
    assert by_ids.means is None


def test_means_and_deviations_are_of_the_context_by_distance() -> None:
    moments = torch.zeros(3, 1, 1, 6, dtype=torch.float64)
    moments[:, 0, 0, 2] = torch.tensor([4, 8, 16 + 4 * 4])  # mean 2, mean of squares 8
    moments[:, 0, 0, 3] = torch.tensor([4, 16, 64])  # always 4
    means, deviations = smooth(moments, 1)
    assert means.tolist() == [[[2, 2, 2, 4, 4, 4]]]
    assert deviations.tolist() == [[[2, 2, 2, LEAST_DEVIATION, LEAST_DEVIATION, LEAST_DEVIATION]]]
    torch.testing.assert_close(smooth(moments, 3)[0][0, 0, 2:4], torch.tensor([3.0, 3.0]).double())


def test_without_a_tokenizer_segments_stand_for_prompts(tiny: HomerModel) -> None:
    result = calibrate(tiny, random_ids(640)[0], segment_len=32, prompts=20)
    assert result.metadata["prompts"] == 20
    assert result.means.dtype == torch.float16
    ids = random_ids(640)[0].view(20, 32)
    positions = torch.arange(32).expand(20, -1)
    logits = tiny.decoder.run(0, 6, ids, positions, [2]).observed[2].flip(-1)
    near = logits[:, 1, 0:31].flatten()  # distance 15, with 15 on either side
    assert abs(float(result.means[2, 1, 15]) - float(near.mean())) < 2e-3 * max(1, abs(float(near.mean())))
    assert abs(float(result.deviations[2, 1, 15]) - float(near.std(correction=0))) < 2e-2


def test_prompts_with_and_without_the_answer(mini: HomerModel) -> None:
    ids = mini.tokenizer(own_text(Random(0)), add_special_tokens=False).input_ids
    assert len(ids) > 10_000
    decode = mini.tokenizer.decode
    for segment in draw_segments(mini, ids, 200, 6):
        assert len(segment.ids) == 200
        assert not segment.evidence.any()
    found = draw_segments(mini, ids, 200, 12, needles=True, seed=1)
    assert sum(bool(segment.evidence.any()) for segment in found) >= 10  # the others lost it with their end
    for segment in found:
        asked = decode(segment.ids[~segment.context])
        stated = decode(segment.ids[segment.evidence]).strip()
        if stated.endswith("."):
            assert re.search(r"\b\d{5}\b", stated)
            assert len(set(re.findall("[a-z]{4,}", stated.lower())) & set(re.findall("[a-z]{4,}", asked.lower()))) >= 2
    with pytest.raises(CalibrationError, match=r"a prompt of 30 tokens has no room for text beside \d+ of prefix"):
        draw_segments(mini, ids, 30, 1)


def test_evidence_heads_are_found_and_saved(mini: HomerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_NEEDLES", 8)
    result = calibrate(mini, segments=1, segment_len=200, prompts=12, heads=True)
    assert result.heads.shape == (16, 8)
    assert 0.5 < float(result.heads.max()) <= 1  # this model was trained to see evidence
    assert float(result.heads[0].max()) < 0.5  # but not in its first layer
    result.save(tmp_path / "c.safetensors")
    loaded = load_calibration(tmp_path / "c.safetensors")
    for name in ("bias", "means", "deviations", "heads"):
        assert torch.equal(getattr(loaded, name), getattr(result, name))
    assert loaded.metadata["needles"] == result.metadata["needles"] <= 8
    size = (tmp_path / "c.safetensors").stat().st_size
    assert size < 4 * 16 * 8 * 200 + 4 * 16 * 200 + 2000  # as documented: 4 bytes x layers x heads x distances


def test_saved_and_loaded(tiny: HomerModel, tmp_path: Path) -> None:
    result = calibrate(tiny, random_ids(200)[0], segment_len=32)
    result.save(tmp_path / "c.safetensors")
    loaded = load_calibration(tmp_path / "c.safetensors")
    assert torch.equal(loaded.bias, result.bias)
    assert loaded.metadata == result.metadata
    torch.save([list(row) for row in result.bias.tolist()], tmp_path / "c.pt")  # the official format
    torch.testing.assert_close(load_calibration(tmp_path / "c.pt").bias, result.bias)
    assert load_calibration(GOLDEN / "mha12.pt").bias.shape == (12, 512)


class Payload:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


def test_bad_files(tiny: HomerModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"hello")
    (tmp_path / "broken.pt").write_bytes(b"hello")
    torch.save({"a": 1}, tmp_path / "dictionary.pt")
    torch.save([[1.0, 2.0], [3.0]], tmp_path / "ragged.pt")
    torch.save(Payload(), tmp_path / "pickle.pt")
    for path in ("none.pt", "broken.pt", "broken.safetensors", "dictionary.pt", "ragged.pt", "pickle.pt"):
        with pytest.raises(CalibrationError):
            load_calibration(tmp_path / path)
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(CalibrationError, match="but one segment takes 32"):
        calibrate(tiny, random_ids(10)[0], segment_len=32)


def test_it_must_fit() -> None:
    model = tiny_llama()
    with pytest.raises(CalibrationError, match="for 5 layers, the model has 6"):
        HomerModel(model, calibration=torch.zeros(5, 64))
    with pytest.raises(CalibrationError, match="shape"):
        HomerModel(model, calibration=torch.zeros(64))
    short = HomerModel(model, config=HomerConfig(max_chunk_len=64), calibration=Calibration(torch.zeros(6, 20)))
    with pytest.raises(CalibrationError, match="covers 20 distances, a chunk here spans"):
        short.compress(*random_ids(4, 300, 5))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"means": torch.zeros(6, 4, 20)}, r"means and deviations are two tensors \(6, heads, 20\)"),
        ({"means": torch.zeros(6, 4, 20), "deviations": torch.zeros(6, 4, 21)}, "two tensors"),
        ({"means": torch.zeros(5, 4, 20), "deviations": torch.zeros(5, 4, 20)}, "two tensors"),
        ({"means": torch.full((6, 4, 20), torch.nan), "deviations": torch.zeros(6, 4, 20)}, "not finite"),
        ({"heads": torch.zeros(5, 4)}, r"heads is a tensor \(6, heads\), not \(5, 4\)"),
    ],
)
def test_parts_must_fit_one_another(more: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        Calibration(torch.zeros(6, 20), **more)


def test_a_file_that_is_overwritten_while_it_is_used_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "calibration.safetensors"
    Calibration(torch.arange(24.0).view(6, 4), {}, question_heads=torch.ones(6, 2)).save(path)
    loaded = load_calibration(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(loaded.bias, torch.arange(24.0).view(6, 4))
    os.truncate(path, 0)  # which would kill a process that reads it through a map
    assert torch.equal(loaded.question_heads, torch.ones(6, 2))
