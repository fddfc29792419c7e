"""What it costs to hold a text to a grammar, and whether all that comes is valid; in one run.

    python benchmarks/structured.py --out structured.json                         # the shipped model, and a random one
    python benchmarks/structured.py --model FOLDER --gguf FILE --out structured.json            # and a real one
    python benchmarks/structured.py --shape llama-3.1-8b --dtype bfloat16 --out structured.json   # random, of its shape
    python benchmarks/structured.py --tiny                                                      # seconds

Cost: milliseconds a step of 1 and of 16 streams, free and held to three grammars; the rounds go through all of them in
turn. `cpu_ms` is the time of the process alone, for machines that do other work too. Validity: ten schemas, so many
texts each, drawn at a temperature, 16 at a time, each streamed and whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import shared
import torch

from homer import CompactCache, Grammar, HomerConfig, HomerModel
from homer.generation.batching import Batch
from homer.generation.sampling import Sampling
from homer.text.constraining.matching import Grammars

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tests")]

from schemas import SCHEMAS, record  # noqa: E402
from small import save_small  # noqa: E402

ROWS = {"type": "array", "minItems": 1000, "items": record(
    name={"type": "string", "maxLength": 20}, size={"type": "integer", "minimum": 0, "maximum": 9999},
    kind={"enum": ["red", "green", "blue"]},
)}  # fmt: skip
GRAMMARS = {  # none of them ends while it is watched
    "schema": lambda: Grammar.json_schema(ROWS),
    "any list": lambda: Grammar.json_schema({"type": "array", "minItems": 1000}),
    "expression": lambda: Grammar.regex(r"([A-Z][a-z]{2,9} \d{1,4}[.;]\n){500}"),
}
_AHEAD = 80  # tokens that are left when the clock stops: the last 64 are watched for the way to the end


def cost(name: str, model: HomerModel, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every number of streams and every grammar."""
    cache = cache_of(model)
    grammars = Grammars(model.tokenizer, model.decoder.vocabulary, ())
    made: dict[str, Grammar | None] = {"free": None} | {key: make() for key, make in GRAMMARS.items()}
    batch = Batch(model.decoder)
    for size in options.batches:
        times: dict[str, list[tuple[float, float]]] = {key: [] for key in made}
        for _ in range(options.repeats + 1):
            for key, grammar in made.items():
                times[key].append(step_ms(batch, grammars, cache, grammar, size, options.new))
        medians = {
            key: [statistics.median(side) for side in zip(*runs[1:], strict=True)] for key, runs in times.items()
        }
        for key, (wall, work) in medians.items():
            row = {"part": "cost", "model": name, "streams": size, "grammar": key, "step_ms": wall, "cpu_ms": work}
            more = {"more": wall / medians["free"][0] - 1, "more_cpu": work / medians["free"][1] - 1}
            yield row | more | {"runs": times[key][1:]}


def step_ms(
    batch: Batch, grammars: Grammars, cache: CompactCache, grammar: Grammar | None, size: int, new: int
) -> tuple[float, float]:
    """Milliseconds a token of so many threads that read together: of the clock, and of this process on any core."""
    sampling = Sampling(max_new_tokens=new + _AHEAD, grammar=grammar)
    ready = threading.Barrier(size + 1)

    def read() -> None:
        matcher = None if grammar is None else grammars.matcher(grammar, new + _AHEAD)
        seat = batch.open(cache, sampling, frozenset(), matcher)
        seat.enter()
        ready.wait()
        for _ in range(new):
            next(seat)
        ready.wait()
        seat.leave()

    with ThreadPoolExecutor(size) as pool:
        reading = [pool.submit(read) for _ in range(size)]
        ready.wait()
        start, worked = time.perf_counter(), time.process_time()
        ready.wait()
        seconds, work = time.perf_counter() - start, time.process_time() - worked
        for each in reading:
            each.result()
    return 1000 * seconds / new, 1000 * work / new


def validity(name: str, model: HomerModel, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every schema."""
    for key, schema in SCHEMAS.items():
        start = time.perf_counter()
        grammar = Grammar.json_schema(schema)
        cache = cache_of(model, schema)
        drawn: dict[str, Any] = {"grammar": grammar, "temperature": options.temperature}
        whole = texts(options.texts, lambda seed: model.generate(cache, 256, seed=seed, **drawn))  # noqa: B023
        streamed = texts(options.texts, lambda seed: joined(model, cache, drawn | {"seed": seed}))  # noqa: B023
        row = {"part": "validity", "model": name, "schema": key, "texts": options.texts}
        row |= {"whole": count_valid(whole, schema), "streamed": count_valid(streamed, schema)}
        row["cut"] = sum(generation.finish_reason != "stop" for generation in (*whole, *streamed))
        row["equal"] = sum(a.text == b.text for a, b in zip(whole, streamed, strict=True))
        row["different"] = len({generation.text for generation in whole})
        yield row | {"seconds": time.perf_counter() - start}


def texts(count: int, make: Callable[[int], Any]) -> list[Any]:
    """What is made of so many seeds, 16 at a time."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(make, range(count)))


def joined(model: HomerModel, cache: CompactCache, drawn: dict[str, Any]) -> Any:
    """A generation that was read piece by piece."""
    stream = model.stream(cache, 256, **drawn)
    text = "".join(stream)
    generation = stream.result()
    assert generation.text == text
    return generation


def count_valid(generations: list[Any], schema: dict[str, Any]) -> int:
    """Those that ended by themselves and hold to the schema."""
    return sum(generation.finish_reason == "stop" and holds(generation.text, schema) for generation in generations)


def holds(text: str, schema: dict[str, Any]) -> bool:
    """Whether a text is JSON that holds to a schema."""
    try:
        jsonschema.validate(json.loads(text), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        print(f"  not valid: {text!r}: {error}", flush=True)
        return False
    return True


def cache_of(model: HomerModel, schema: dict[str, Any] | None = None) -> CompactCache:
    """A short prompt, which tells of the schema."""
    told = "" if schema is None else f" Answer with JSON that holds to this schema: {json.dumps(schema)}"
    return model.compress_prompt(model.build_prompt(f"Which?{told}", ["Nothing is said here."]), max_new_tokens=256)


def models(options: argparse.Namespace) -> Iterator[tuple[str, HomerModel]]:
    """The models asked for, one at a time."""
    dtype = getattr(torch, options.dtype)
    where: dict[str, Any] = {"dtype": dtype, "device": options.device, "calibration": False}
    if not options.no_random:
        with tempfile.TemporaryDirectory() as folder:
            saved = save_small(Path(folder), window=1024, hidden=256)  # heads of 128, which the fused kernels take
            config = HomerConfig(max_chunk_len=512, layers_warmup=2)
            yield "random", HomerModel.from_pretrained(saved, config=config, **where)
    if options.shape is not None:
        yield options.shape, shaped(options)
        return
    given = {} if options.gguf is None else {"gguf_file": options.gguf}
    yield Path(options.model).name, HomerModel.from_pretrained(options.model, **where, **given)


def shaped(options: argparse.Namespace) -> HomerModel:
    """Random weights of a model's shape, with the tokenizer of --model."""
    import speed

    given = {} if options.gguf is None else {"gguf_file": options.gguf}
    known = HomerModel.from_pretrained(options.model, device="cpu", calibration=False, **given)
    plain = speed.build(
        speed.SHAPES[options.shape], torch.device(options.device), getattr(torch, options.dtype), "sdpa"
    )
    return HomerModel(plain, known.tokenizer, HomerConfig(significance="paper"), calibration=False)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Cost and validity of constrained decoding.")
    parser.add_argument("--model", default="mini", help="a folder, a file or a hub id")
    parser.add_argument("--gguf", help="of a folder, the file")
    parser.add_argument("--shape", help="random weights of this shape in place of the model's own")
    parser.add_argument("--no-random", action="store_true", help="leave out the small random model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--parts", nargs="+", choices=["cost", "validity"], default=["cost", "validity"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--new", type=int, default=128, help="tokens a stream, of the cost")
    parser.add_argument("--repeats", type=int, default=3, help="rounds after the first, of which the median counts")
    parser.add_argument("--texts", type=int, default=100, help="of each schema")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--out", type=Path, help="JSON file, written anew after every row")
    parser.add_argument("--tiny", action="store_true", help="the random model on the CPU, in seconds")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.device, options.texts, options.new, options.repeats, options.batches = "cpu", 1, 4, 1, [1, 2]
    return options


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    options = parse(arguments)
    rows: list[dict[str, Any]] = []
    report = shared.facts() | shared.chosen(options, "device", "dtype", "temperature") | {"rows": rows}
    for name, model in models(options):
        backend = f"{type(model.decoder).__name__}, {type(model.decoder.slots()).__name__}"
        for part in options.parts:
            for row in {"cost": cost, "validity": validity}[part](name, model, options):
                rows.append(row | {"backend": backend})
                print(shared.line_of(rows[-1], "runs"), flush=True)
                shared.write_json(options.out, report)
        if options.tiny:
            break
    return report


if __name__ == "__main__":
    main()
