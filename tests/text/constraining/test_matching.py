"""Every token keeps to the grammar: with several kinds of tokenizers, streamed, sampled, cut, and by many threads."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from pydantic import BaseModel, Field
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from homer import GenerationError, Grammar, HomerConfig, HomerModel, Sampling
from homer.text.constraining.closing import Closer
from homer.text.constraining.matching import Grammars, mask_rows
from tests.byte_tokenizers import byte_tokenizer, sentence_pieces
from tests.conftest import tiny_llama


@pytest.fixture(scope="module", params=["bytes", "bytes, decoded twice", "sentence pieces"])
def model(request: pytest.FixtureRequest) -> HomerModel:
    """A random model: what it says holds to nothing but the grammar."""
    tokenizer = sentence_pieces() if request.param == "sentence pieces" else byte_tokenizer()
    if request.param == "bytes, decoded twice":  # as transformers 5.17 reads a GGUF file
        tokenizer.backend_tokenizer.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("\u2581", " "), decoders.ByteLevel()]
        )
    return HomerModel(tiny_llama(window=512), tokenizer, HomerConfig(max_chunk_len=64, layers_warmup=2), False)


class Thing(BaseModel):
    name: str = Field(max_length=6)
    size: int = Field(ge=3, le=170)
    parts: list[bool] = Field(min_length=1, max_length=3)


def cache_of(model: HomerModel) -> Any:
    ids = torch.arange(3, 40)
    return model.compress(ids[:4], ids[4:30], ids[30:])


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 3}, {"top_k": 2, "seed": 1}, {"top_p": 0.5}])
def test_json_is_valid_streamed_or_not(model: HomerModel, sampling: dict[str, Any]) -> None:
    cache, grammar = cache_of(model), Grammar.json_schema(Thing)
    whole = model.generate(cache, 200, grammar=grammar, repetition_penalty=1.3, **sampling)
    assert whole.finish_reason == "stop"
    Thing.model_validate_json(whole.text)
    assert json.dumps(json.loads(whole.text), ensure_ascii=False) == whole.text or "\\" in whole.text
    if "top_p" not in sampling:  # without a seed it draws anew
        pieces = list(model.stream(cache, 200, grammar=grammar, repetition_penalty=1.3, **sampling))
        assert "".join(pieces) == whole.text
        assert len(pieces) > 5


@pytest.mark.parametrize(
    ("grammar", "form"),
    [
        (Grammar.regex(r"[a-zé]{3}-\d{2,4}"), r"[a-zé]{3}-\d{2,4}"),
        (Grammar.choice(["ja", "nein", "日本 🎉"]), r"ja|nein|日本 🎉"),
        (Grammar.lark('start: "(" start ")" | /[0-9]/'), r"\(*\d\)*"),
        (Grammar.ebnf('root ::= "x" [a-c] "y"'), r"x[a-c]y"),
    ],
)
def test_expressions_choices_and_grammars_are_held_to(model: HomerModel, grammar: Grammar, form: str) -> None:
    for seed in range(5):
        generation = model.generate(cache_of(model), 60, grammar=grammar, temperature=1.0, seed=seed)
        if generation.finish_reason == "stop":
            assert re.fullmatch(form, generation.text), generation
        else:
            assert len(generation.token_ids) == 60


def test_what_is_cut_is_closed_where_there_is_room_and_never_called_whole(model: HomerModel) -> None:
    grammar = Grammar.json_schema(Thing)
    generation = model.generate(cache_of(model), 5, grammar=grammar)  # too few for all that must stand there
    assert (generation.finish_reason, len(generation.token_ids)) == ("length", 5)
    texts = {"text": {"type": "string", "minLength": 400}}
    endless = Grammar.json_schema({"type": "object", "properties": texts, "required": ["text"]})
    assert model.generate(cache_of(model), 100, grammar=endless).finish_reason == "length"
    long = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
    }
    for seed in range(3):
        cut = model.generate(cache_of(model), 80, grammar=Grammar.json_schema(long), temperature=9.0, seed=seed)
        assert len(cut.token_ids) <= 80
        assert set(json.loads(cut.text)) == {"a", "b"}
        assert cut.finish_reason == "length" or len(cut.token_ids) < 80
    matcher = Grammars(model.tokenizer, 300, {1}).matcher(grammar)
    assert isinstance(matcher._closer, Closer)
    assert matcher._closer.way(matcher._compiled, 2) is None  # more has to come than two tokens
    whole = model.generate(cache_of(model), 200, grammar=grammar)
    assert whole.finish_reason == "stop"


def test_a_text_that_may_go_on_ends_where_the_model_ends_it(model: HomerModel) -> None:
    grammars = Grammars(model.tokenizer, 300, {model.tokenizer.eos_token_id})
    matcher = grammars.matcher(Grammar.regex("a+"))
    end, a = model.tokenizer.eos_token_id, model.tokenizer.convert_tokens_to_ids("a")
    zeros = torch.zeros(1, 300)
    assert matcher.mask(zeros)[0, end] == -torch.inf
    matcher.accept(a)
    allowed = matcher.mask(zeros).isfinite()[0].nonzero().flatten().tolist()
    assert {a, end} <= set(allowed)
    assert not matcher.finished
    matcher.accept(end)
    assert matcher.finished
    with pytest.raises(GenerationError, match="does not go on"):
        grammars.matcher(Grammar.regex("a+")).accept(end)


def test_many_rows_are_masked_as_each_by_itself(model: HomerModel) -> None:
    grammars = Grammars(model.tokenizer, 300, {model.tokenizer.eos_token_id})
    made = [Grammar.regex("a+"), None, Grammar.choice(["b", "{"]), Grammar.json_object()]
    logits = torch.randn(4, 300)
    masked = mask_rows(logits, [None if grammar is None else grammars.matcher(grammar) for grammar in made])
    for row, grammar in enumerate(made):
        alone = logits[row : row + 1]
        assert torch.equal(masked[row : row + 1], alone if grammar is None else grammars.matcher(grammar).mask(alone))
    assert mask_rows(logits, [None] * 4) is logits


def test_a_grammar_is_compiled_once_and_few_are_kept(model: HomerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homer.text.constraining.matching._KEPT", 2)
    grammars = Grammars(model.tokenizer, 300, {1})
    compiled: list[Grammar] = []
    compile_one = grammars._compile
    monkeypatch.setattr(grammars, "_compile", lambda grammar: compiled.append(grammar) or compile_one(grammar))
    first, second, third = (Grammar.regex(letter) for letter in "abc")
    for grammar in (first, second, first, third, first, second):
        grammars.matcher(grammar)
    assert compiled == [first, second, third, second]


def test_threads_do_not_mix(model: HomerModel) -> None:
    cache = cache_of(model)
    grammars = [Grammar.regex(f"{letter}{{9}}") for letter in "xyz"] + [Grammar.json_schema(Thing)]
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda grammar: model.generate(cache, 200, grammar=grammar).text, grammars * 2))
    assert texts[:3] == ["x" * 9, "y" * 9, "z" * 9]
    assert texts[:4] == texts[4:]


def test_what_cannot_be_combined_is_refused_before_any_work(model: HomerModel) -> None:
    grammar = Grammar.json_object()
    for options, named in (
        ({"num_beams": 2}, "num_beams"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
        ({"stop": "x"}, "stop"),
    ):
        prompt = model.build_prompt("Who?", ["They met."])
        with pytest.raises(GenerationError, match=named):
            model.check_prompt(prompt, grammar=grammar, **options)
    with pytest.raises(GenerationError, match="json_schema"):
        Sampling(grammar={"type": "object"})  # type: ignore[arg-type]


def test_a_model_without_a_fitting_tokenizer_says_so() -> None:
    without = HomerModel(tiny_llama(), config=HomerConfig(max_chunk_len=32, layers_warmup=2))
    with pytest.raises(GenerationError, match="no tokenizer"):
        without.generate(cache_of(without), 5, grammar=Grammar.json_object())
    letters = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, "[UNK]"))
    words = PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="[UNK]", eos_token="b")
    with pytest.raises(GenerationError, match="this tokenizer"):
        Grammars(words, 3, {1}).matcher(Grammar.json_object())
