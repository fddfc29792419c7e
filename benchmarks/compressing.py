"""What a question finds among many passages, and what stays of the answer: this library's compressor and its rivals.

    python benchmarks/compressing.py --model DIR --qa DIR --out DIR --embedder DIR
    python benchmarks/compressing.py --join compressing.json ... --out DIR      # of several runs one table, one figure

Each question is asked of many passages in random order, one of which answers it. Recall: does the right passage stand
among the first 1, 3, 5 and 11. Survival: is a span that states the answer whole in so many tokens of text.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import real
import rivals
import shared

from homer import Compressor, HomerConfig, HomerModel, Question

FIRST = (1, 3, 5, 11)
BUDGETS = (128, 256, 512, 1024)
HEADS = [f"right in first {k}" for k in FIRST] + [f"answer in {b}" for b in BUDGETS]
CANDIDATES = 100  # passages that BM25 leaves to ours, where it goes first
Spans = dict[int, list[tuple[int, int]]]  # of passages, what is kept of them
Found = tuple[list[int], dict[int, Spans | str]]  # the ranking, and what is kept at every budget
Way = Callable[[Any], Found]


def ours(compressor: Compressor, case: Any, numbers: Sequence[int] | None = None) -> Found:
    """By the compressor, of all passages or of some; read once for all budgets."""
    numbers = range(len(case.documents)) if numbers is None else numbers
    prompt, parts = compressor._read(case.question, [case.documents[number] for number in numbers])
    kept: dict[int, Spans | str] = {}
    ranking: Sequence[int] = ()
    for budget in BUDGETS:
        result = compressor._choose(prompt, parts, "sentences", budget, None)
        ranking = result.ranking
        kept[budget] = {numbers[i]: list(spans) for i, spans in zip(result.indices, result.spans, strict=True)}
    return [numbers[index] for index in ranking], kept


def best_passages(compressor: Compressor, case: Any, ranking: list[int]) -> Found:
    """The best passages by a ranking, the last one cut."""
    kept: dict[int, Spans | str] = {}
    lengths: dict[int, list[list[int]]] = {}
    for budget in BUDGETS:
        room, spans = budget, {}
        for number in ranking:
            if room <= 0:
                break
            if number not in lengths:
                lengths[number] = compressor._builder.tokenize(case.documents[number]["text"])[0][:, 1:].tolist()
            inside = lengths[number][:room]
            spans[number] = [(0, inside[-1][1])]
            room -= len(inside)
        kept[budget] = spans
    return ranking, kept


def shortened(lingua: rivals.Lingua, compressor: Compressor, case: Any) -> Found:
    """By LLMLingua, which hands out more than it was told to: what is beyond the budget is cut."""
    kept: dict[int, Spans | str] = {}
    ranking: list[int] = []
    for budget in BUDGETS:
        ranking, text = lingua.shorten(case.question, titled(case), budget)
        inside = compressor._builder.tokenize(text)[0][:budget, 1:].tolist()
        kept[budget] = text[: inside[-1][1]] if inside else ""
    return ranking, kept


def titled(case: Any) -> list[str]:
    """Passages behind their titles."""
    return [f"{one['title']}\n{one['text']}" if one.get("title") else one["text"] for one in case.documents]


@dataclasses.dataclass
class Ways:
    """All ways by name, what they need loaded on first use."""

    compressor: Compressor
    model: HomerModel
    embedder: str | None
    device: str | None

    def __getitem__(self, name: str) -> Way:
        """The way of this name; it forgets what it knew of passages."""
        rows = self.compressor
        if name == "ours":
            return lambda case: ours(rows, case)
        if name == "ours, plain mean":
            plain = dataclasses.replace(rows._config, significance=Question(sharpness=1.0))
            return lambda case: ours(Compressor(self.model, config=plain), case)
        if name == "bm25":
            return lambda case: best_passages(rows, case, real.bm25_ranking(case))
        if name == "bm25, ours":
            return lambda case: ours(rows, case, sorted(real.bm25_ranking(case)[:CANDIDATES]))
        if name == "embedder":
            embedder = rivals.Embedder(str(self.embedder), self.device)
            return lambda case: best_passages(rows, case, embedder.ranking(case.question, titled(case)))
        lingua = rivals.Lingua(self.model, long=name == "longllmlingua")
        return lambda case: shortened(lingua, rows, case)


WAYS = ("ours", "ours, plain mean", "bm25", "bm25, ours", "embedder", "llmlingua", "longllmlingua")


def states_answer(case: Any, kept: Spans | str) -> bool:
    """Whether a span that states the answer is whole in what is kept of the right passage; in a text, anywhere."""
    number, answers = case.gold[0]
    if isinstance(kept, str):
        return any("".join(answer.split()) in "".join(kept.split()) for answer in answers)
    text = case.documents[number]["text"]
    return any(answer in text[start:end] for answer in answers for start, end in kept.get(number, ()))


def measure(way: Way, case: Any) -> dict[str, Any]:
    """One question by one way."""
    start = time.perf_counter()
    ranking, kept = way(case)
    seconds = time.perf_counter() - start
    right = case.gold[0][0]
    rank = ranking.index(right) if right in ranking else len(case.documents)
    survives = {str(budget): states_answer(case, kept[budget]) for budget in BUDGETS}
    return {"rank": rank, "survives": survives, "seconds": seconds}


def measure_all(ways: Ways, by: str, cases: Sequence[Any], timed: int) -> Iterator[dict[str, Any]]:
    """All questions by one way, with times of the first ones, for which it starts anew, with no passage known."""
    way = ways[by]
    for number, case in enumerate(cases):
        if number < timed and by in ("embedder", "llmlingua", "longllmlingua"):
            way = ways[by]
        row = {"by": by} | measure(way, case)
        if number >= timed:
            del row["seconds"]
        yield row


def asking_seconds(model: HomerModel, cases: Sequence[Any]) -> float:
    """What `ask` takes until the first token may come, a question."""
    start = time.perf_counter()
    for case in cases:
        model.compress_prompt(model.build_prompt(case.question, case.documents)).logits.cpu()
    return (time.perf_counter() - start) / len(cases)


def table(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> list[str]:
    """Markdown: a line a set and way."""
    lines = ["| set | by | n | " + " | ".join(HEADS) + " | s a question |", "|---" * (4 + len(HEADS)) + "|"]
    for key in dict.fromkeys((row["set"], row["by"]) for row in rows):
        cell = [row for row in rows if (row["set"], row["by"]) == key]
        shares = [sum(row["rank"] < k for row in cell) / len(cell) for k in FIRST]
        shares += [sum(row["survives"][str(budget)] for row in cell) / len(cell) for budget in BUDGETS]
        times = [row["seconds"] for row in cell if "seconds" in row] or cell[0].get("times", [])
        seconds = f"{sum(times) / len(times):.3f}" if times else "-"
        numbers = " | ".join(f"{share:.2f}" for share in shares)
        lines.append(f"| {key[0]} | {key[1]} | {len(cell)} | {numbers} | {seconds} |")
    return lines + [f"\n{name}: {value}" for name, value in facts.items() if name.startswith("ask")]


def save(folder: Path, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Everything so far, with what it was measured on."""
    shared.write_results(folder, "compressing", facts | {"rows": rows}, table(rows, facts))


def draw(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One figure: of how many questions the answer is in the text, by its tokens."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure, axes = plt.subplots(1, len(sets), figsize=(4.2 * len(sets), 3.2), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        for by in dict.fromkeys(row["by"] for row in rows):
            cell = [row for row in rows if (row["set"], row["by"]) == (name, by)]
            shares = [sum(row["survives"][str(budget)] for row in cell) / max(1, len(cell)) for budget in BUDGETS]
            axis.plot(range(len(BUDGETS)), shares, marker="o", label=by)
        axis.set(title=name, xlabel="tokens of text", ylim=(0, 1.03))
        axis.set_xticks(range(len(BUDGETS)), [str(budget) for budget in BUDGETS])
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("the answer is in it")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(folder / "compressing.png", dpi=150)
    plt.close(figure)


def join(files: Sequence[Path], folder: Path) -> None:
    """Several runs in one: a way that is in two of them is taken from the first, its times from the first with any."""
    runs = [json.loads(file.read_text()) for file in files]
    rows: list[dict[str, Any]] = []
    for run in runs:
        known = {(row["set"], row["by"]): row for row in reversed(rows)}
        timed = {(row["set"], row["by"]) for row in rows if "seconds" in row}
        for row in run["rows"]:
            key = row["set"], row["by"]
            if key not in known:
                rows.append(row)
            elif key not in timed and "seconds" in row:
                known[key].setdefault("times", []).append(row["seconds"])
    facts = {"runs": [{name: value for name, value in run.items() if name != "rows"} for run in runs]}
    save(folder, rows, facts)
    draw(folder, rows)
    print("\n".join(table(rows, {})))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all cells, print and save them."""
    parser = real.new_parser(__doc__)
    parser.add_argument("--join", type=Path, nargs="+", help="results of several runs; nothing is run")
    parser.add_argument("--sets", nargs="+", default=["xquad", "nq"])
    parser.add_argument("--by", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--embedder", help="folder of a sentence-transformer; its row is left out unless given")
    parser.add_argument("--chunk", type=int, default=None, help="longest leaf; the model's own unless given")
    parser.add_argument("--batch", type=int, default=1, help="leaves at a time")
    parser.add_argument("--asks", type=int, default=3, help="questions a set for which ask is timed as well; 0: none")
    parser.add_argument("--timed", type=int, default=5, help="questions a set and way that are timed")
    parser.add_argument(
        "--few", type=int, default=None, help="questions a set for LLMLingua and the plain mean; all unless given"
    )
    options = parser.parse_args(arguments)
    if options.join:
        return join(options.join, options.out)
    model = HomerModel.from_pretrained(options.model, device=options.device)
    config = HomerConfig(max_chunk_len=options.chunk, chunk_batch_size=options.batch)
    ways = Ways(Compressor(model, config=config), model, options.embedder, options.device)
    facts = shared.chosen(options, "passages", "seed", "chunk", "batch", "few", "timed")
    sets, rows = real.load(options.qa), []
    for name in options.sets:
        cases = real.draw(name, sets, options.samples, options.passages, seed=options.seed)
        for by in options.by:
            if by == "embedder" and not options.embedder:
                continue
            some = cases[: options.few] if "lingua" in by or "plain" in by else cases
            if options.timed:
                ways[by](cases[-1])  # heads are measured, kernels are compiled
            for number, row in enumerate(measure_all(ways, by, some, options.timed), 1):
                rows.append({"set": name} | row)
                if number % 10 == 0:  # or a long run that is ended early would have been for nothing
                    save(options.out, rows, facts)
            print(table(rows, {})[-1], flush=True)
            save(options.out, rows, facts)
        if options.asks:
            asked = cases[: options.asks]
            asking_seconds(model, asked[:1])
            facts[f"ask until the first token, {name}, s"] = round(asking_seconds(model, asked), 3)
            save(options.out, rows, facts)
    draw(options.out, rows)


if __name__ == "__main__":
    main()
