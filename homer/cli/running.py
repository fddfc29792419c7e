"""What the commands ask, index, compress, doctor and demo do, once their options are read."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homer import demo
from homer.cli.doctor import environment, lines, of_model
from homer.cli.indexing import encode_from_store, index, indexed_paths
from homer.cli.options import Options
from homer.config import HomerConfig
from homer.errors import InputError
from homer.model import HomerModel
from homer.model.compressor import Compressor
from homer.text.files import is_among, read_documents
from homer.view.answer import Answer


def _load(options: Options) -> HomerModel:
    return HomerModel.from_pretrained(
        options.model,
        calibration=options.calibration,
        dtype=options.dtype,
        device=options.device,
        device_map=options.device_map,
        devices=options.devices,
        gguf_file=options.gguf_file,
        rope_scaling=options.rope_scaling,
        chat_template_kwargs=options.chat_template_kwargs,
    )


def run_index(options: Options) -> int:
    """Encode documents once."""
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


def run_ask(options: Options) -> int:
    """Answer a question from files."""
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
    told: dict[str, Any] = {"max_new_tokens": options.max_tokens, "cite": options.cite}
    answer = model.ask(options.question, documents, system=options.system, **told, **settings)
    if options.html:
        answer.show(options.html)
    print(_json(answer) if options.json else _report(answer, options.show_thinking))
    _say([*skipped, *_cut(answer)])
    return 0


def run_compress(options: Options) -> int:
    """Print what of files a question asks for."""
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


def _config(model: HomerModel, options: Options) -> HomerConfig:
    names = [field.name for field in dataclasses.fields(HomerConfig)]
    given = {name: getattr(options, name, None) for name in names}
    return dataclasses.replace(model.config, **{name: value for name, value in given.items() if value is not None})


def _json(answer: Answer) -> str:
    """The answer, sources and usage; the trace would repeat every document, and is for `--html`."""
    return json.dumps({name: value for name, value in answer.to_dict().items() if name != "trace"}, indent=1)


def _cut(answer: Answer) -> list[str]:
    """What is to be said of an answer that did not come to its end."""
    if answer.finish_reason != "length":
        return []
    what = "answer was cut" if answer.text or not answer.reasoning else "thought was cut before there was an answer"
    return [f"the {what} after {answer.usage.output_tokens:,} tokens: raise --max-tokens"]


def _report(answer: Answer, thinking: bool = False) -> str:
    """The answer, and the passages it rests on; before it, where that is wanted, what was thought."""
    usage = answer.usage
    cached = f", {usage.cached_tokens:,} of them from before" if usage.cached_tokens else ""
    thought = [f"Thought: {answer.reasoning}", ""] if thinking and answer.reasoning else []
    lines = [*thought, answer.text, "", f"{usage.input_tokens:,} tokens compressed to {usage.kept_tokens:,}{cached}"]
    if answer.reasoning and not thinking:
        lines.append(f"{usage.reasoning_tokens:,} tokens of thought before the answer; --show-thinking prints them")
    for source in answer.sources[:3]:
        lines.append(f"\n{source.title}: {source.kept:,} of {source.tokens:,} tokens kept")
        lines += [f"  {passage.start}-{passage.end}: {_line(passage.text)}" for passage in source.passages[:2]]
    for citation in answer.citations:
        lines.append(f"\n{_line(answer.text[citation.start : citation.end])} rests on")
        lines += [f"  {part.title}: {part.start}-{part.end}: {_line(part.text)}" for part in citation.cited]
    return "\n".join(lines)


def _line(text: str, width: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def run_doctor(options: Options) -> int:
    """Say how a model will run."""
    for line in lines(environment()):
        print(line, flush=True)  # now, since loading may take long, or fail
    model = _load(options)
    model.config = _config(model, options)
    for line in lines(of_model(model, options.tokens)):
        print(line, flush=True)
    return 0


def run_demo(options: Options) -> int:
    """Ask the questions of the demo."""
    model = _load(options)
    return 0 if demo.run_demo(model, config=_config(model, options)) else 1
