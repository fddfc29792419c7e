"""The command line: homer ask, index, serve, batch, demo, doctor; and passkey, needle, perplexity, calibrate."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from homer.base.version import __version__
from homer.cli.indexing import encode_from_store, index, indexed_paths
from homer.config import SIGNIFICANCES, HomerConfig
from homer.errors import HomerError, InputError
from homer.experiments.commands import add_commands
from homer.model import HomerModel
from homer.model.compressor import KEEPS, MARKER, Compressor
from homer.text.files import is_among, read_documents
from homer.view.answer import Answer

_FILES = "files or folders of text, PDF, HTML, DOCX, PPTX or XLSX; - is standard input"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where all went well, 1 where an answer was wrong, 2 on bad input."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: answers may hold what a terminal cannot show
    try:
        try:
            return _run(_parser().parse_args(arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has read enough; else Python would say so once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(options: argparse.Namespace) -> int:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        status: int = options.run(options)
    except BrokenPipeError:
        raise
    except HomerError as error:
        print(f"homer: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"homer: {where}{error.strerror or error}: check paths, permissions and free space", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="homer", description="Ask local models about documents of any length.")
    parser.add_argument("--version", action="version", version=f"homer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_ask(commands)
    _add_index(commands)
    _add_compress(commands)
    demo = commands.add_parser("demo", help="ask a model about a folder of documents that ships with this package")
    _add_model(demo)
    demo.set_defaults(run=_demo)
    _add_doctor(commands)
    add_commands(commands)
    _add_integrations(commands)
    return parser


def _add_integrations(commands: Any) -> None:
    """`serve` and `batch`: found by name, since their package is built upon this one, which does not need it."""
    importlib.import_module("homer_integrations.commands").add_commands(commands)


def _add_ask(commands: Any) -> None:
    ask = commands.add_parser("ask", help="answer a question from files")
    ask.add_argument("files", nargs="*", help=f"{_FILES}; default: all of the --store")
    ask.add_argument("--question", required=True)
    ask.add_argument("--store", metavar="FOLDER", help="find documents there as homer index encoded them, and put new")
    ask.add_argument("--max-tokens", "--max-new-tokens", type=int, dest="max_new_tokens", help="most new tokens")
    ask.add_argument("--system", help="the system message")
    _add_strict(ask)
    _add_model(ask)
    ask.add_argument("--json", action="store_true", help="print the answer, sources and usage as JSON")
    ask.add_argument("--html", metavar="PATH", help="draw the documents, what survived, and the tree in this file")
    ask.add_argument("--no-progress", action="store_true")
    ask.set_defaults(run=_ask)


def _add_index(commands: Any) -> None:
    index = commands.add_parser("index", help="encode documents once, for any number of questions")
    index.add_argument("files", nargs="+", help=_FILES)
    index.add_argument("--out", required=True, metavar="FOLDER", help="the store; what is there already is kept")
    index.add_argument("--disk-gb", type=float, default=256, help="most gigabytes of the store (default: 256)")
    index.add_argument("--system", help="the system message, which must be the same when they are asked")
    index.add_argument("--no-progress", action="store_true")
    _add_strict(index)
    _add_model(index)
    index.set_defaults(run=_index)


def _add_compress(commands: Any) -> None:
    compress = commands.add_parser("compress", help="print what of files a question asks for, for any other model")
    compress.add_argument("files", nargs="+", help=_FILES)
    compress.add_argument("--question", required=True)
    compress.add_argument(
        "--max-tokens", type=int, help="tokens of text to print (default: 512, unless another is given)"
    )
    compress.add_argument("--max-share", type=float, help="the same as a share of all tokens, above 0 to 1")
    compress.add_argument("--top-k", type=int, help="so many of the best sentences, passages or documents")
    compress.add_argument("--keep", choices=KEEPS, default="sentences", help="what stays or goes as a whole")
    compress.add_argument("--marker", default=MARKER, help=f"stands where something was left out (default: {MARKER})")
    compress.add_argument("--json", action="store_true", help="print documents, spans, scores and usage as JSON")
    compress.add_argument("--no-progress", action="store_true")
    _add_strict(compress)
    _add_model(compress)
    compress.set_defaults(run=_compress)


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser("doctor", help="say what is installed, how a model will run, and what it will take")
    doctor.add_argument("--tokens", type=int, default=65_536, help="of the context to plan for (default: 65536)")
    _add_model(doctor)
    doctor.set_defaults(run=_doctor)


def _add_strict(command: Any) -> None:
    command.add_argument("--strict", action="store_true", help="a file below a folder that cannot be read is an error")


def _add_model(command: Any) -> None:
    """The model and how it compresses: the same when documents are indexed and when they are asked."""
    command.add_argument("--model", default="mini", help="a hub id, a folder, a GGUF file, or mini (default)")
    command.add_argument("--gguf-file", help="of a hub id or a folder, the file that holds the model")
    command.add_argument("--device", help="cpu, cuda or mps")
    command.add_argument("--device-map", help="such as auto")
    command.add_argument("--dtype", help="such as bfloat16")
    command.add_argument("--calibration", help="a calibration file")
    command.add_argument("--rope-scaling", type=float, help="a factor for YaRN")
    for name in ("max-chunk-len", "target-len", "layers-warmup", "max-initial-chunk-len", "chunk-batch-size"):
        command.add_argument(f"--{name}", type=int, help="see HomerConfig")
    command.add_argument("--significance", choices=SIGNIFICANCES, help="what decides which tokens survive")


def _load(options: argparse.Namespace) -> HomerModel:
    return HomerModel.from_pretrained(
        options.model,
        calibration=options.calibration,
        dtype=options.dtype,
        device=options.device,
        device_map=options.device_map,
        gguf_file=options.gguf_file,
        rope_scaling=options.rope_scaling,
    )


def _index(options: argparse.Namespace) -> int:
    model = _load(options)
    skipped: list[str] = []
    index(
        model,
        options.files,
        options.out,
        config=_config(model, options),
        system=options.system,
        disk_bytes=int(options.disk_gb * 1e9),
        report=lambda size: print(size, flush=True),
        strict=options.strict,
        report_skipped=skipped.append,
        progress=not options.no_progress,
    )
    _say(skipped)
    return 0


def _ask(options: argparse.Namespace) -> int:
    if not options.files and not options.store:
        raise InputError("0 files: give files or folders, or a --store that homer index made")
    skipped: list[str] = []
    paths = options.files or indexed_paths(options.store)
    if options.html:
        _check_page(options.html, paths)
    drawn = [options.html] if options.html else []
    documents: Any = read_documents(paths, strict=options.strict, leave_out=drawn, report=skipped.append)
    model = _load(options)
    settings: dict[str, Any] = {"config": _config(model, options), "progress": not options.no_progress}
    if options.store:
        documents = encode_from_store(
            model, options.question, documents, options.store, system=options.system, **settings
        )
        del settings["config"]
    answer = model.ask(
        options.question, documents, system=options.system, max_new_tokens=options.max_new_tokens, **settings
    )
    if options.html:
        answer.show(options.html)
    print(_json(answer) if options.json else _report(answer))
    _say(skipped)
    return 0


def _compress(options: argparse.Namespace) -> int:
    skipped: list[str] = []
    budget: dict[str, Any] = {name: getattr(options, name) for name in ("max_tokens", "max_share", "top_k")}
    if not any(value is not None for value in budget.values()):
        budget["max_tokens"] = 512
    Compressor.check(**budget)
    documents = read_documents(options.files, strict=options.strict, report=skipped.append)
    model = _load(options)
    compressor = Compressor(model, marker=options.marker, config=_config(model, options))
    short = compressor.compress(
        options.question, documents, keep=options.keep, progress=not options.no_progress, **budget
    )
    print(json.dumps(dataclasses.asdict(short), indent=1) if options.json else short.text)
    usage = f"{short.usage.input_tokens:,} tokens shortened to {short.usage.kept_tokens:,}"
    _say([*skipped, usage])
    return 0


def _check_page(page: str, paths: Sequence[str | os.PathLike[str]]) -> None:
    """Raise InputError, before anything is computed, where --html would overwrite a document or cannot be written."""
    if is_among(page, paths) and b'<main class="homer-answer"' not in Path(page).read_bytes():
        raise InputError(f"--html {page} is one of the files that are read: give another file")
    if not os.path.isdir(os.path.dirname(page) or "."):
        raise InputError(f"--html {page} is in a folder that is not there: make it, or give another file")


def _say(lines: Sequence[str]) -> None:
    """What was skipped, as the last thing said."""
    for line in lines:
        print(f"homer: {line}", file=sys.stderr)


def _config(model: HomerModel, options: argparse.Namespace) -> HomerConfig:
    names = [field.name for field in dataclasses.fields(HomerConfig)]
    given = {name: getattr(options, name, None) for name in names}
    return dataclasses.replace(model.config, **{name: value for name, value in given.items() if value is not None})


def _json(answer: Answer) -> str:
    """The answer, sources and usage; the trace would repeat every document, and is for `--html`."""
    return json.dumps({name: value for name, value in answer.to_dict().items() if name != "trace"}, indent=1)


def _report(answer: Answer) -> str:
    """The answer, and the passages it rests on."""
    usage = answer.usage
    cached = f", {usage.cached_tokens:,} of them from before" if usage.cached_tokens else ""
    lines = [answer.text, "", f"{usage.input_tokens:,} tokens compressed to {usage.kept_tokens:,}{cached}"]
    for source in answer.sources[:3]:
        lines.append(f"\n{source.title}: {source.kept:,} of {source.tokens:,} tokens kept")
        lines += [f"  {passage.start}-{passage.end}: {_line(passage.text)}" for passage in source.passages[:2]]
    return "\n".join(lines)


def _line(text: str, width: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _doctor(options: argparse.Namespace) -> int:
    from homer.cli.doctor import environment, lines, of_model

    for line in lines(environment()):
        print(line, flush=True)  # now, since loading may take long, or fail
    model = _load(options)
    model.config = _config(model, options)
    for line in lines(of_model(model, options.tokens)):
        print(line, flush=True)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from homer.demo import run_demo

    model = _load(options)
    return 0 if run_demo(model, config=_config(model, options)) else 1
