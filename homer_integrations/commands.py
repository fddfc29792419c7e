"""homer serve and homer batch: their options. What they need is imported when they run."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

_LOADING = ("model", "device", "device_map", "dtype", "gguf_file", "calibration", "rope_scaling")
_LENGTHS = ("max_chunk_len", "target_len", "layers_warmup", "max_initial_chunk_len", "chunk_batch_size")


def add_commands(commands: Any) -> None:
    """Add them to an argument parser's commands."""
    _add_serve(commands.add_parser("serve", help="answer OpenAI's clients over HTTP"))
    _add_batch(commands.add_parser("batch", help="answer a file of questions; goes on where it was stopped"))


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-name", help="what clients call the model (default: as given by --model)")
    parser.add_argument("--api-key", help="asked of every client (default: $HOMER_API_KEY, or none)")
    parser.add_argument("--allowed-hosts", nargs="+", metavar="NAME", help="other names by which clients call it")
    parser.add_argument("--allowed-origins", nargs="+", metavar="ORIGIN", help="sites whose web pages may call it")
    parser.add_argument("--max-body-bytes", type=int)
    parser.add_argument("--max-prompt-tokens", type=int, help="documents included")
    parser.add_argument("--max-messages", type=int, help="of one conversation")
    parser.add_argument("--max-documents", type=int, help="of one request")
    parser.add_argument("--max-prompts", type=int, help="of one request for completions")
    parser.add_argument("--max-running", type=int, help="requests that hold memory at a time")
    parser.add_argument("--max-queue", type=int, help="requests that wait; more get status 429")
    parser.add_argument("--timeout", type=float, help="seconds that any request may take")
    parser.add_argument("--keep-alive", type=float, help="seconds between comments in a silent stream")
    parser.add_argument("--store-bytes", type=int, help="of compact caches for identical requests")
    parser.add_argument("--store-folder", type=Path, help="keep compact caches on disk as well")
    parser.add_argument("--store-folder-bytes", type=int)
    parser.add_argument(
        "--states-bytes", type=int, help="of documents' states in memory, for new questions (default: 0)"
    )
    parser.add_argument("--states-folder", type=Path, help="keep documents' states on disk as well")
    parser.add_argument("--states-folder-bytes", type=int)
    parser.add_argument("--ray", action="store_true", help="run under Ray Serve, on this machine or a cluster")
    parser.add_argument("--replicas", type=int, help="with --ray: copies of the model")
    parser.add_argument("--max-replicas", type=int, help="with --ray: add copies by load, up to so many")
    parser.add_argument("--gpus-per-replica", type=float, help="with --ray")
    parser.add_argument("--cpus-per-replica", type=float, help="with --ray")
    parser.set_defaults(run=_serve)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "questions", type=Path, help='JSON lines: {"question": ...}, maybe with "id" and "documents"; - is stdin'
    )
    parser.add_argument("--documents", nargs="+", type=Path, default=[], help="files and folders to answer from")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; questions answered there are left out")
    parser.add_argument("--strict", action="store_true", help="a file below a folder that cannot be read is an error")
    parser.add_argument("--system", help="the system message")
    parser.add_argument("--ray", type=int, metavar="N", help="run N copies of the model by Ray Data")
    parser.add_argument("--gpus-per-replica", type=float, default=0, help="with --ray")
    parser.add_argument("--no-progress", action="store_true")
    parser.set_defaults(run=_batch)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="mini", help="a hub id, a folder, a GGUF file, or mini (default)")
    parser.add_argument("--gguf-file", help="of a hub id or a folder, the file that holds the model")
    parser.add_argument("--device", help="cpu, cuda or mps")
    parser.add_argument("--device-map", help="such as auto")
    parser.add_argument("--dtype", help="such as bfloat16")
    parser.add_argument("--calibration", help="a calibration file")
    parser.add_argument("--rope-scaling", type=float, help="a factor for YaRN")
    parser.add_argument("--max-tokens", "--max-new-tokens", type=int, help="most new tokens where a request names none")
    for name in _LENGTHS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="see HomerConfig")


def _serve(options: argparse.Namespace) -> int:
    from homer import ConfigError

    try:
        from homer_integrations.serve.command import run

        if options.ray:
            import homer_integrations.serve.cluster  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(str(error)) from None
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in ("run", "host", "port", "ray"):
        given.pop(name)
    if os.environ.get("HOMER_API_KEY"):
        given.setdefault("api_key", os.environ["HOMER_API_KEY"])
    return run(given, options.host, options.port, ray=options.ray)


def _batch(options: argparse.Namespace) -> int:
    from homer_integrations.batch import Batch, run_batch

    model = {name: getattr(options, name) for name in _LOADING if getattr(options, name) is not None}
    config = {name: getattr(options, name) for name in _LENGTHS if getattr(options, name) is not None}
    batch = Batch(model, config, options.documents, options.system, options.max_tokens, options.strict)
    report = run_batch(
        batch, options.questions, options.out, options.ray, options.gpus_per_replica, progress=not options.no_progress
    )
    print(report, file=sys.stderr)
    return 1 if report.failed else 0
