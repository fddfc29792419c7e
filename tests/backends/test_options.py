"""Options of from_pretrained: one value under two names, and what is none."""

import pytest
import torch

from homer import ConfigError
from homer.backends.options import settle_device, settle_dtype


def test_the_older_name_of_the_dtype_is_taken() -> None:
    options = {"torch_dtype": "bfloat16", "revision": "main"}
    assert settle_dtype(None, options) == torch.bfloat16
    assert options == {"revision": "main"}
    with pytest.raises(ConfigError, match="two names of one option"):
        settle_dtype("float16", {"torch_dtype": "bfloat16"})


def test_a_device_is_there_or_named() -> None:
    assert settle_device("cpu", {}) == torch.device("cpu")
    assert settle_device(None, {}) is None
    with pytest.raises(ConfigError, match="device_map"):
        settle_device("cpu", {"device_map": "auto"})
