"""homer serve and homer batch: their options. What they need is imported when they run."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

_LOADING = (
    "model", "device", "device_map", "devices", "dtype", "gguf_file", "calibration", "rope_scaling",
    "chat_template_kwargs",
)  # fmt: skip
_LENGTHS = (
    "window", "max_chunk_len", "target_len", "layers_warmup", "max_initial_chunk_len", "chunk_batch_size",
)  # fmt: skip


def commands(shared: Any) -> dict[str, Any]:
    """Both by their names.

    Args:
        shared: the module of the options that all commands share.
    """
    model = (*shared.MODEL, shared.max_tokens("most new tokens where a request names none"), *shared.LENGTHS)
    return {"serve": _serve(shared, *model), "batch": _batch(shared, *model)}


def _serve(shared: Any, *model: Any) -> Any:
    option, path = shared.Option, shared.PATH
    return shared.command(
        "serve",
        "Answer OpenAI's clients over HTTP.",
        f"{__name__}:run_serve",
        option("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in"),
        option("--port", type=int, default=8000),
        option("--served-name", help="what clients call the model (default: as given by --model)"),
        option("--api-key", help="asked of every client (default: $HOMER_API_KEY, or none)"),
        option("--allowed-hosts", multiple=True, metavar="NAME", help="other names by which clients call it"),
        option("--allowed-origins", multiple=True, metavar="ORIGIN", help="sites whose web pages may call it"),
        option("--max-body-bytes", type=int),
        option("--max-prompt-tokens", type=int, help="documents included"),
        option("--max-messages", type=int, help="of one conversation"),
        option("--max-documents", type=int, help="of one request"),
        option("--max-prompts", type=int, help="of one request for completions"),
        option("--max-running", type=int, help="requests that hold memory at a time"),
        option("--max-queue", type=int, help="requests that wait; more get status 429"),
        option("--timeout", type=float, help="seconds that any request may take"),
        option("--keep-alive", type=float, help="seconds between comments in a silent stream"),
        option("--store-bytes", type=int, help="of compact caches for identical requests"),
        option("--store-folder", type=path, help="keep compact caches on disk as well"),
        option("--store-folder-bytes", type=int),
        option("--states-bytes", type=int, help="of documents' states in memory, for new questions (default: 0)"),
        option("--states-folder", type=path, help="keep documents' states on disk as well"),
        option("--states-folder-bytes", type=int),
        option("--ray", is_flag=True, help="run under Ray Serve, on this machine or a cluster"),
        option("--replicas", type=int, help="with --ray: copies of the model"),
        option("--max-replicas", type=int, help="with --ray: add copies as they get busy, up to so many"),
        option("--gpus-per-replica", type=float, help="with --ray"),
        option("--cpus-per-replica", type=float, help="with --ray"),
        *model,
    )


def _batch(shared: Any, *model: Any) -> Any:
    option, path = shared.Option, shared.PATH
    return shared.command(
        "batch",
        "Answer a file of questions. It goes on where it was stopped. Each of QUESTIONS is a line of JSON, "
        '{"question": ...}, maybe with "id" and "documents"; - is standard input.',
        f"{__name__}:run_batch_command",
        shared.argument("questions", type=path),
        option("--documents", multiple=True, type=path, help="files and folders to answer from"),
        option("--out", type=path, required=True, help="JSON lines; questions answered there are left out"),
        shared.STRICT,
        shared.SYSTEM,
        option("--ray", type=int, metavar="N", help="run N copies of the model by Ray Data"),
        option("--gpus-per-replica", type=float, default=0, help="with --ray"),
        shared.NO_PROGRESS,
        *model,
    )


def run_serve(options: SimpleNamespace) -> int:
    """Serve until interrupted."""
    from homer import ConfigError

    try:
        from homer_integrations.serve.command import run

        if options.ray:
            import homer_integrations.serve.cluster  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(str(error)) from None
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in ("host", "port", "ray"):
        given.pop(name)
    if os.environ.get("HOMER_API_KEY"):
        given.setdefault("api_key", os.environ["HOMER_API_KEY"])
    return run(given, options.host, options.port, ray=options.ray)


def run_batch_command(options: SimpleNamespace) -> int:
    """Answer a file of questions."""
    from homer_integrations.batch import Batch, run_batch

    model = {name: getattr(options, name) for name in _LOADING if getattr(options, name) is not None}
    config = {name: getattr(options, name) for name in _LENGTHS if getattr(options, name) is not None}
    batch = Batch(model, config, options.documents or [], options.system, options.max_tokens, options.strict)
    report = run_batch(
        batch, options.questions, options.out, options.ray, options.gpus_per_replica, progress=not options.no_progress
    )
    print(report, file=sys.stderr)
    return 1 if report.failed else 0
