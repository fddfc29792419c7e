"""The experiments' command line and presets: what options make of a setup."""

from types import SimpleNamespace

import pytest

from homer import ConfigError, HomerConfig
from homer.cli import options
from homer.cli.experiments import commands
from homer.experiments import Setup
from homer.experiments.commands import make_setup
from homer.experiments.presets import PRESETS
from homer.experiments.retrieval import default_lengths, make_cases


def options_of(name: str, *arguments: str) -> SimpleNamespace:
    command = commands(options)[name]
    return SimpleNamespace(**command.make_context(name, list(arguments)).params)


def test_a_preset_is_overridden_one_by_one() -> None:
    given = options_of("passkey", "--preset", "llama-2-7b", "--layers-warmup", "3", "--method", "homer")
    setup = make_setup(given, chat=True)
    assert setup.model == PRESETS["llama-2-7b"].chat
    assert setup.settings["layers_warmup"] == 3
    assert setup.settings["refresh_suffix"] is False
    assert tuple(setup.methods) == ("homer",)


def test_every_setting_of_the_config_is_an_option() -> None:
    assert set(HomerConfig.__dataclass_fields__) <= set(vars(options_of("needle", "folder")))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_perplexity_is_of_the_base_model_and_pass_keys_of_the_chat_model(name: str) -> None:
    preset = PRESETS[name]
    assert preset.setup(chat=False)["model"] == preset.base != preset.chat == preset.setup(chat=True)["model"]


def test_lengths_are_multiples_of_the_window_and_no_case_is_no_experiment() -> None:
    setup = Setup("mini")
    assert default_lengths(setup, (1, 4)) == [1024, 4096]
    with pytest.raises(ConfigError, match="samples=0 is out of range"):
        make_cases(setup, None, lambda random: None, [1024], samples=0, depths=1)
