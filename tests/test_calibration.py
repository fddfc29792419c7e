from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, random_ids, tiny_llama

from homer import Calibration, CalibrationError, HomerConfig, HomerModel, calibrate, load_calibration


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
    by_text = calibrate(mini, [text], segment_len=64, segments=1)
    by_ids = calibrate(mini, [ids], segment_len=64, segments=1)
    torch.testing.assert_close(by_text.bias, by_ids.bias)


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
