"""The command line: homer ask, serve, batch, demo, and the experiments: passkey, needle, perplexity, calibrate."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from transformers.utils import logging as transformers_logging

from homer._version import __version__
from homer.answer import Answer
from homer.config import HomerConfig
from homer.errors import HomerError
from homer.experiments.commands import add_commands
from homer.files import read_documents
from homer.model import HomerModel


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where all went well, 1 where an answer was wrong, 2 on bad input."""
    options = _parser().parse_args(arguments)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        status: int = options.run(options)
    except HomerError as error:
        print(f"homer: {error}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="homer", description="Ask local models about documents of any length.")
    parser.add_argument("--version", action="version", version=f"homer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_ask(commands)
    demo = commands.add_parser("demo", help="ask the small model about a folder of documents that ships with it")
    demo.set_defaults(run=_demo)
    add_commands(commands)
    _add_integrations(commands)
    return parser


def _add_integrations(commands: Any) -> None:
    """`serve` and `batch`, which are built upon this package; what they need is imported when they run."""
    from homer_integrations._commands import add_commands

    add_commands(commands)


def _add_ask(commands: Any) -> None:
    ask = commands.add_parser("ask", help="answer a question from files")
    ask.add_argument("files", nargs="+", help="text, Markdown or PDF files, or folders of them")
    ask.add_argument("--question", required=True)
    ask.add_argument("--model", default="mini", help="a hub id, a folder, or mini (default)")
    ask.add_argument("--system", help="the system message")
    ask.add_argument("--max-new-tokens", type=int)
    ask.add_argument("--device-map", help="such as auto, cuda or cpu")
    ask.add_argument("--dtype", help="such as bfloat16")
    ask.add_argument("--calibration", help="a calibration file")
    ask.add_argument("--rope-scaling", type=float, help="a factor for YaRN")
    for name in ("max-chunk-len", "target-len", "layers-warmup", "max-initial-chunk-len", "chunk-batch-size"):
        ask.add_argument(f"--{name}", type=int, help="see HomerConfig")
    ask.add_argument("--json", action="store_true", help="print the answer, sources and usage as JSON")
    ask.add_argument("--html", metavar="PATH", help="draw the documents, what survived, and the tree in this file")
    ask.add_argument("--no-progress", action="store_true")
    ask.set_defaults(run=_ask)


def _ask(options: argparse.Namespace) -> int:
    documents = read_documents(options.files)
    model = HomerModel.from_pretrained(
        options.model,
        calibration=options.calibration,
        dtype=options.dtype,
        device_map=options.device_map,
        rope_scaling=options.rope_scaling,
    )
    answer = model.ask(
        options.question,
        documents,
        system=options.system,
        config=_config(model, options),
        progress=not options.no_progress,
        max_new_tokens=options.max_new_tokens,
    )
    if options.html:
        answer.show(options.html)
    print(_json(answer) if options.json else _report(answer))
    return 0


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
    lines = [answer.text, "", f"{usage.input_tokens:,} tokens compressed to {usage.kept_tokens:,}"]
    for source in answer.sources[:3]:
        lines.append(f"\n{source.title}: {source.kept:,} of {source.tokens:,} tokens kept")
        lines += [f"  {passage.start}-{passage.end}: {_line(passage.text)}" for passage in source.passages[:2]]
    return "\n".join(lines)


def _line(text: str, width: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _demo(_: argparse.Namespace) -> int:
    from homer.demo import run_demo

    return 0 if run_demo() else 1


if __name__ == "__main__":
    sys.exit(main())
