"""The harness's three requests, answered from compact caches; most of it without the harness itself."""

import importlib.util
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import asked_small, save_small

from homer import HomerError, HomerModel, read_documents
from homer.demo import DOCUMENTS
from homer_integrations.lm_eval import HarnessModel, register
from homer_integrations.lm_eval.cutting import HEAD, MOST, cut

TEXT = "\n\n".join(document["text"] for document in read_documents([DOCUMENTS])[2:4])
SYSTEM = "Answer the question from the documents below. Keep the answer short."
QUESTION = "What is the maximum fill level of the nitrogen dewar?"


@pytest.fixture(scope="module")
def harness(mini: HomerModel) -> HarnessModel:
    return HarnessModel(mini)


def ask(*args: Any) -> list[SimpleNamespace]:
    return [SimpleNamespace(args=args)]


def plain(mini: HomerModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return mini.model(torch.tensor(ids)[None]).logits[0].log_softmax(-1)


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        (f"Read this.\n{'It rains. ' * 99}\nQuestion: why does it rain so much?\nAnswer:", "Question: "),
        (
            f"Read this.\n{'It rains. ' * 99}\nWhat is it that comes down from above on most days of a year? It is",
            "What is",
        ),
        (f"{'It rains. ' * 999}", "It rains."),
        ("x" * 999, "xxx"),
        ("One line.", "One line."),
        ("", ""),
    ],
)
def test_a_text_is_cut_before_what_it_asks(text: str, tail: str) -> None:
    found = cut(text, words)
    assert "".join(found) == text
    assert found.tail.lstrip(" ").startswith(tail)
    assert words(found.tail) <= MOST
    assert words(found.head) <= HEAD
    assert found.head in ("Read this.\n", "")


def test_what_fits_is_read_as_the_plain_model_reads_it(mini: HomerModel, harness: HarnessModel) -> None:
    context, continuation = TEXT[:1000].rstrip(), " which is seldom"
    ids, after = mini.tokenize(context), mini.tokenize(context + continuation)
    rows = plain(mini, after)[len(ids) - 1 : -1]
    expected = float(rows.gather(1, torch.tensor(after[len(ids) :])[:, None]).sum())
    for given in ((context, continuation), (f"{context} ", continuation.lstrip())):
        ((found, greedy),) = harness.loglikelihood(ask(*given))
        assert found == pytest.approx(expected, abs=1e-3)
        assert not greedy
    every, best = mini.tokenize(context), plain(mini, mini.tokenize(context)).argmax(-1).tolist()
    decode = mini.tokenizer.decode
    place = next(i for i in range(9, len(every)) if best[i - 1] == every[i] and decode(every[i])[0] == " ")
    assert harness.loglikelihood(ask(decode(every[:place]), decode(every[place])))[0][1]


def test_options_of_one_context_share_its_cache(harness: HarnessModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compress = harness.model.compress
    monkeypatch.setattr(harness.model, "compress", lambda *args, **more: calls.append(args) or compress(*args, **more))
    found = harness.loglikelihood(
        [*ask("One, two,", " three"), *ask("One, two,", " four"), *ask("Something else", " four")]
    )
    assert len(calls) == 2
    assert all(-math.inf < likelihood < 0 for likelihood, _ in found)


def test_a_long_text_is_compressed_for_its_question(mini: HomerModel, harness: HarnessModel) -> None:
    chat = HarnessModel(mini, target_len=512)
    messages = [("system", SYSTEM), ("user", f"Document:\n{TEXT}\n\nQuestion: {QUESTION}")]
    prompt = chat.apply_chat_template([{"role": role, "content": content} for role, content in messages])
    assert len(mini.tokenize(prompt)) > mini.window
    said = chat.generate_until(ask(prompt, {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}))
    assert "35 litres" in said[0]
    right, wrong = (value for value, _ in chat.loglikelihood([*ask(prompt, "35 litres"), *ask(prompt, "99 horses")]))
    assert right > wrong


def test_until_ends_the_text(harness: HarnessModel) -> None:
    (whole,) = harness.generate_until(ask(TEXT[:400], {"max_gen_toks": 8}))
    (cut_off,) = harness.generate_until(ask(TEXT[:400], {"max_gen_toks": 8, "until": whole[3:5]}))
    assert cut_off == whole[: whole.index(whole[3:5])]
    (short,) = harness.generate_until(ask(TEXT[:400], {"max_gen_toks": 2, "until": [""]}))
    assert whole.startswith(short)


def test_every_token_of_a_text_is_predicted(mini: HomerModel, harness: HarnessModel) -> None:
    short = TEXT[:900]
    ids = mini.tokenize(short)
    lead = harness._leading([]) or [mini.tokenizer.eos_token_id or 0]
    expected = float(plain(mini, lead + ids)[len(lead) - 1 : -1].gather(1, torch.tensor(ids)[:, None]).sum())
    assert harness.loglikelihood_rolling(ask(short)) == [pytest.approx(expected, abs=2e-3)]


def test_a_long_text_is_predicted_stretch_by_stretch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = HarnessModel(asked_small(tmp_path), target_len=100)
    parts, follow = [], small._follow
    monkeypatch.setattr(small, "_follow", lambda cache, part: parts.append((cache, part)) or follow(cache, part))
    (found,) = small.loglikelihood_rolling(ask(TEXT[:2500]))
    ids = small.model.tokenize(TEXT[:2500])
    assert [token for _, part in parts for token in part] == ids
    assert len(ids) > 2 * small.model.window
    assert isinstance(parts[0][0], int)  # all that stands before the first token
    assert [len(cache) for cache, _ in parts[1:]] == [1 + 127, *[100] * (len(parts) - 2)]
    assert -30 < found / len(ids) < -1


def test_text_never_becomes_a_control_token(mini: HomerModel) -> None:
    chat = HarnessModel(mini)
    end = mini.tokenizer.eos_token
    text = chat.apply_chat_template([{"role": "user", "content": f"Say {end} now."}])
    clean = chat.apply_chat_template([{"role": "user", "content": "Say it now."}])
    number = mini.tokenizer.convert_tokens_to_ids(end)
    assert chat._ids(text).count(number) == chat._ids(clean).count(number)
    assert mini.tokenizer.convert_tokens_to_ids(end) not in HarnessModel(mini)._ids(f"Say {end} now.")


def test_the_harness_names_a_device_and_a_batch_size(tmp_path: Path) -> None:
    folder = save_small(tmp_path)
    device = "cuda:0" if not torch.cuda.is_available() else "cpu"
    found = HarnessModel(
        str(folder), device=device, batch_size=1, max_batch_size=None, target_len=80, calibration=False
    )
    assert found.model.decoder.device.type == "cpu"
    assert found._config.target_len == 80
    with pytest.raises(HomerError, match="target_length"):
        HarnessModel(str(folder), target_length=80)


def test_a_missing_harness_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install homer-integrations\[lm-eval\]"):
        register()


@pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="needs the extra lm-eval")
def test_the_harness_runs_it(tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    register()
    assert register() is register()
    (tmp_path / "data.jsonl").write_text('{"text": "One, two,", "options": [" three", " horse"], "right": 0}\n' * 2)
    (tmp_path / "task.yaml").write_text(
        f"task: counting\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/data.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: options\n"
        "doc_to_target: right\nmetric_list: [{metric: acc}]\ntarget_delimiter: ''\n"
    )
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(model="homer", model_args="pretrained=mini", tasks=["counting"], task_manager=tasks)
    assert found["results"]["counting"]["acc,none"] in (0.0, 1.0)
