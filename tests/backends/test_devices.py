"""What must hold on every kind of device; skipped where there is none of that kind."""

import pytest
import torch

from homer import HomerModel

FACT = "The door code for the northern archive is 48213."
FILLER = [f"The minutes of meeting {number} were read and nobody had anything to add to them." for number in range(250)]
PRESENT = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}


@pytest.mark.parametrize("device", PRESENT)
def test_the_small_model_answers_beyond_its_window(device: str) -> None:
    if not PRESENT[device]:
        pytest.skip(f"no {device} here")
    model = HomerModel.from_pretrained("mini", device_map=device, dtype=torch.float32)
    answer = model.ask("What is the door code for the northern archive?", [*FILLER[:125], FACT, *FILLER[125:]])
    assert model.decoder.device.type == device
    assert answer.usage.input_tokens > 2 * model.window
    assert answer.text == "48213"
    assert answer.sources[0].passages
