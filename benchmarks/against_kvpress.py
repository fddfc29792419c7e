"""kvpress beside this library on a real model, inside its window: the same prompts, the same budget of kept tokens.

    python benchmarks/against_kvpress.py export --model DIR --qa DIR --out DIR
    python benchmarks/against_kvpress.py run --out DIR
    python benchmarks/against_kvpress.py table --out DIR

The first step is this library's own and measures it too. The second runs where kvpress is, which wants an older
transformers, and gets tokens, not text. Every press sees the question, at the end of what it shortens. Survival: is a
span that states the answer whole in what is kept; of presses, which choose for each head by itself, the share of all
layers' heads in which it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BUDGETS = (256, 512)
NEW_TOKENS = 24
PRESSES: dict[str, Callable[[Any, float], Any]] = {
    "none": lambda kvpress, ratio: None,
    "SnapKV": lambda kvpress, ratio: kvpress.SnapKVPress(ratio),
    "AdaKV on SnapKV": lambda kvpress, ratio: kvpress.AdaKVPress(kvpress.SnapKVPress(ratio)),
    "CriticalKV on SnapKV": lambda kvpress, ratio: kvpress.CriticalKVPress(kvpress.SnapKVPress(ratio)),
    "ChunkKV on SnapKV": lambda kvpress, ratio: kvpress.ChunkKVPress(kvpress.SnapKVPress(ratio)),
    "TOVA": lambda kvpress, ratio: kvpress.TOVAPress(ratio),
    "ExpectedAttention": lambda kvpress, ratio: kvpress.ExpectedAttentionPress(ratio),
    "LagKV": lambda kvpress, ratio: kvpress.LagKVPress(ratio),
    "KeyDiff": lambda kvpress, ratio: kvpress.KeyDiffPress(ratio),
    "Knorm": lambda kvpress, ratio: kvpress.KnormPress(ratio),
    "StreamingLLM": lambda kvpress, ratio: kvpress.StreamingLLMPress(ratio),
}


def export(options: argparse.Namespace) -> None:
    """Write the prompts, the model as the older transformers reads it, and what this library makes of them."""
    import real
    import shared

    from homer import HomerModel

    model = HomerModel.from_pretrained(options.model, device=options.device, dtype=options.dtype)
    options.out.mkdir(parents=True, exist_ok=True)
    model.model.save_pretrained(options.out / "model")
    sets, seed = real.load(options.qa), options.seed
    drawn = {"needle": real.needles(sets, options.needles, options.passages)}
    drawn |= {name: real.draw(name, sets, options.samples, options.passages, seed=seed) for name in ("xquad", "nq")}
    written, rows = [], []
    for task, cases in drawn.items():
        for case in cases:
            prompt = model.build_prompt(case.question, case.documents)
            ids = torch.cat(prompt.parts).tolist()
            spans = [(len(prompt.prefix_ids) + at).tolist() for at in real.answer_tokens(prompt, *case.gold[0])]
            answer = model.tokenize(case.answer)
            written.append({"task": task, "ids": ids, "answer": answer, "gold": case.answer, "spans": spans})
            for budget in BUDGETS:
                rows.append({"task": task, "by": "ours", "budget": budget} | _ours(model, prompt, case, budget))
                row = real.measure(model, case, budget, "bm25 best last", answered=True)
                rows.append({"task": task, "by": "bm25 best last", "budget": budget} | row)
        print(task, len(cases), "prompts of", len(written[-1]["ids"]), "tokens", flush=True)
    facts = shared.facts() | shared.chosen(options, "passages", "seed", "samples", "needles")
    _write(options.out / "cases.json", {"cases": written})
    _write(options.out / "ours.json", facts | {"dtype": str(model.model.dtype), "rows": rows})
    model.tokenizer.save_pretrained(options.out / "model")


def _ours(model: Any, prompt: Any, case: Any, budget: int) -> dict[str, Any]:
    """The compact cache of a prompt, which would fit the window, and what follows from it."""
    import real

    start = time.perf_counter()
    cache = model.compress(
        *prompt.parts,
        document_numbers=prompt.document_numbers,
        question_span=prompt.question_span,
        config=dataclasses.replace(model.config, target_len=budget),
    )
    cache.logits.cpu()
    seconds = time.perf_counter() - start
    said = model.generate(cache, NEW_TOKENS).text or ""
    return {
        "survives": real.survives(prompt, real.kept_context(prompt, cache), case.gold),
        "likelihood": real.likelihood(model, cache, case.answer),
        "kept": len(cache),
        "seconds": seconds,
        "right": case.answer in said,
    }


def run(options: argparse.Namespace) -> None:
    """Every press on every prompt."""
    kvpress = _kvpress()
    import transformers

    written = json.loads((options.out / "cases.json").read_text())["cases"]
    model = transformers.AutoModelForCausalLM.from_pretrained(options.out / "model", dtype="auto")
    model = model.to(options.device or "cpu").eval()
    rows = []
    for task in dict.fromkeys(case["task"] for case in written):
        cases = [case for case in written if case["task"] == task][: options.few]
        for name in options.presses:
            for budget in BUDGETS[:1] if name == "none" else options.budgets:
                cell = [
                    {"task": task, "by": name, "budget": budget} | press_one(kvpress, model, name, budget, case)
                    for case in cases
                ]
                rows += cell
                print(_line(cell), flush=True)
                facts = {
                    "kvpress": _version("kvpress"),
                    "transformers": transformers.__version__,
                    "torch": torch.__version__,
                }
                _write(options.out / f"{options.name}.json", {"versions": facts, "rows": rows})


def _kvpress() -> Any:
    """kvpress; `datasets` is imported by presses that are not used here, and an empty module will do for it."""
    import importlib.util
    import sys
    import types

    if importlib.util.find_spec("datasets") is None:
        sys.modules["datasets"] = types.ModuleType("datasets")
        sys.modules["datasets"].load_dataset = None  # type: ignore[attr-defined]
    import kvpress

    return kvpress


@torch.inference_mode()
def press_one(kvpress: Any, model: Any, name: str, budget: int, case: dict[str, Any]) -> dict[str, Any]:
    """One prompt: all but its last token shortened to the budget, then the answer read, then one generated."""
    import contextlib

    import transformers

    ids = torch.tensor([case["ids"]], device=model.device)
    before = ids.shape[1] - 1
    press = PRESSES[name](kvpress, 1 - (budget - 0.5) / before)
    kept = Watch(press, budget - 1, case["spans"]) if isinstance(press, kvpress.ScorerPress) else None
    cache = transformers.DynamicCache()
    start = time.perf_counter()
    with press(model) if press is not None else contextlib.nullcontext():
        model.model(input_ids=ids[:, :-1], past_key_values=cache)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    lengths = [layer.keys.shape[2] for layer in cache.layers]
    answer = torch.tensor([case["answer"]], device=model.device)
    logits = _go_on(model, cache, torch.cat([ids[:, -1:], answer[:, :-1]], 1), before)
    likelihood = float(logits.log_softmax(-1).gather(1, answer[0][:, None]).mean())
    for layer, length in zip(cache.layers, lengths, strict=True):
        layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
    row = {"likelihood": likelihood, "kept": sum(lengths) / len(lengths) + 1, "seconds": seconds, "tokens": before + 1}
    if case["task"] == "needle":
        row["said"] = _greedy(model, cache, ids[:, -1:], before)
    return row | ({} if kept is None else {"survives": kept.share()})


class Watch:
    """Sees what a press that scores tokens keeps: the share of heads in which a span is whole."""

    def __init__(self, press: Any, count: int, spans: Sequence[Sequence[int]]) -> None:
        self._score, self._count, self._spans = press.score, count, spans
        self._seen: list[Tensor] = []
        press.score = self._watch

    def share(self) -> float:
        """Of all heads of all layers."""
        return float(torch.cat(self._seen).float().mean())

    def _watch(self, *given: Any, **named: Any) -> Tensor:
        scores: Tensor = self._score(*given, **named)
        rows = torch.zeros_like(scores[0], dtype=torch.bool).scatter_(1, scores[0].topk(self._count, -1).indices, True)
        self._seen.append(torch.stack([rows[:, list(span)].all(1) for span in self._spans]).any(0).cpu())
        return scores


def _go_on(model: Any, cache: Any, ids: Tensor, first: int) -> Tensor:
    """Logits (n, vocabulary) of tokens that stand at `first` and after."""
    positions = torch.arange(first, first + ids.shape[1], device=ids.device)[None]
    logits: Tensor = model(input_ids=ids, past_key_values=cache, position_ids=positions).logits[0]
    return logits.float()


def _greedy(model: Any, cache: Any, ids: Tensor, first: int) -> list[int]:
    """The likeliest tokens, one by one, up to the end of the answer."""
    said: list[int] = []
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    while len(said) < NEW_TOKENS and not (said and said[-1] in ends):
        ids = _go_on(model, cache, ids, first + len(said))[-1:].argmax(-1, keepdim=True)
        said.append(int(ids))
    return said


def table(options: argparse.Namespace) -> list[str]:
    """Markdown: a line a task, budget and method."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(options.out / "model")
    golds = json.loads((options.out / "cases.json").read_text())["cases"]
    rows = json.loads((options.out / "ours.json").read_text())["rows"]
    pressed = json.loads((options.out / f"{options.name}.json").read_text())["rows"]
    for row in pressed:
        row["survives by head"] = row.pop("survives", None)
    counts: dict[tuple[str, str, int], int] = {}
    for row in pressed:
        key = row["task"], row["by"], row["budget"]
        number = counts[key] = counts.get(key, -1) + 1
        if "said" in row:
            gold = [case for case in golds if case["task"] == row["task"]][number]["gold"]
            row["right"] = gold in tokenizer.decode(row["said"])
    few = max(counts.values()) + 1
    lines = ["| task | kept | by | n | survives | in so many heads | answered | log-likelihood |", "|---" * 8 + "|"]
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in rows + pressed:
        groups.setdefault((row["task"], row["budget"], row["by"]), []).append(row)
    for task, budget, by in sorted(groups, key=lambda key: key[:2]):
        lines.append(
            f"| {task} | {budget if by != 'none' else 'all'} | {by} | " + _cells(groups[task, budget, by][:few])
        )
    return lines


def _cells(rows: Sequence[dict[str, Any]]) -> str:
    cells = [str(len(rows))]
    for name in ("survives", "survives by head", "right", "likelihood"):
        values = [row[name] for row in rows if row.get(name) is not None]
        cells.append(f"{sum(values) / len(values):.2f}" if values else "-")
    return " | ".join(cells) + " |"


def _line(cell: Sequence[dict[str, Any]]) -> str:
    mean: Callable[[str], float] = lambda name: sum(row.get(name) or 0 for row in cell) / len(cell)  # noqa: E731
    head = f"{cell[0]['task']:8} {cell[0]['budget']:5} {cell[0]['by']:22} n={len(cell):3}"
    return f"{head} likelihood {mean('likelihood'):.2f} kept {mean('kept'):.0f} {mean('seconds'):.2f} s"


def _version(name: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(name)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """One of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["export", "run", "table"])
    parser.add_argument("--model")
    parser.add_argument("--qa", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else None)
    parser.add_argument("--dtype", help="of the model; as it is loaded by this library unless given")
    parser.add_argument("--passages", type=int, default=36)
    parser.add_argument("--needles", type=int, default=24)
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--presses", nargs="+", default=list(PRESSES), choices=list(PRESSES))
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--few", type=int, help="prompts of each task; all unless given")
    parser.add_argument("--name", default="kvpress", help="of the file of results")
    options = parser.parse_args(arguments)
    if options.step == "table":
        lines = table(options)
        (options.out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines))
    else:
        {"export": export, "run": run}[options.step](options)


if __name__ == "__main__":
    main()
