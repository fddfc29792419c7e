"""Ten schemas, and a random model that knows nothing of JSON: what ends by itself is valid."""

import json
from pathlib import Path

import jsonschema
import pytest
from schemas import SCHEMAS
from small import save_small

pytest.importorskip("llguidance")

from homer import Grammar, HomerConfig, HomerModel


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> HomerModel:
    folder = save_small(tmp_path_factory.mktemp("random"), window=1024)
    return HomerModel.from_pretrained(folder, config=HomerConfig(max_chunk_len=256), calibration=False)


def check(model: HomerModel, name: str, samples: int, *, whole_as_well: bool = False) -> None:
    schema = SCHEMAS[name]
    grammar = Grammar.json_schema(schema)
    cache = model.compress_prompt(model.build_prompt("Which?", ["Nothing is said here."]))
    for seed in range(samples):
        stream = model.stream(cache, 256, grammar=grammar, temperature=1.5, seed=seed)
        text = "".join(stream)
        assert stream.result().finish_reason == "stop", text
        jsonschema.validate(json.loads(text), schema)
        if whole_as_well:
            assert model.generate(cache, 256, grammar=grammar, temperature=1.5, seed=seed).text == text


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_ends_by_itself_is_valid(random_model: HomerModel, name: str) -> None:
    check(random_model, name, 2, whole_as_well=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_hundred_of_a_hundred(random_model: HomerModel, name: str) -> None:
    check(random_model, name, 100)


@pytest.mark.real
@pytest.mark.long
def test_a_real_model_fills_in_every_schema() -> None:
    folder = Path(__file__).parents[3] / ".real"
    model = HomerModel.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf", calibration=False)
    for name in SCHEMAS:
        check(model, name, 1)
