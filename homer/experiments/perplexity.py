"""Language modelling: perplexity of a long text, each segment given all before it (the paper, section 4.3)."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import DynamicCache

from homer.base.arguments import check_whole
from homer.errors import ConfigError, InputError
from homer.experiments.methods import FilePath, Method, Setup, open_methods
from homer.experiments.report import Report
from homer.experiments.retrieval import default_lengths, read_text
from homer.model import HomerModel
from homer.text.tokenizing import Piece, PieceTokenizer

logger = logging.getLogger(__name__)

WINDOWS = (1, 4, 8, 16)
AFFIX_LEN = 100
_POINTS = 64


@dataclasses.dataclass(frozen=True)
class Segments:
    """How a text is cut: every segment is predicted from a cache rebuilt from all text before it.

    Attributes:
        segment_len: tokens. None: half the window, or a quarter of one that YaRN extended.
        affix_len: tokens at the beginning and at the end of the text before, that stay whole as prefix and suffix.
    """

    segment_len: int | None = None
    affix_len: int = AFFIX_LEN

    def length(self, method: Method) -> int:
        """Tokens of a segment for a method.

        Raises:
            ConfigError: too short for its affixes, or too long to follow a compact cache in the window.
        """
        window = method.model.window
        length = self.segment_len or window // (4 if method.scaled else 2)
        if self.affix_len < 1 or length < 2 * self.affix_len + 2:
            raise ConfigError(
                f"segment_len={length} leaves no context beside 2 x {self.affix_len} affix tokens: raise it to "
                f"{2 * self.affix_len + 2} at least, or lower affix_len"
            )
        config = method.model.config
        chunk = config.max_chunk_len or window // 2
        if method.compresses and chunk + length > window:
            raise ConfigError(
                f"max_chunk_len={chunk} and segment_len={length} pass the window of {window} together: lower one"
            )
        return length


def perplexity(
    setup: Setup | None = None,
    texts: Sequence[FilePath] = (),
    *,
    context_lengths: Sequence[int] | None = None,
    samples: int | None = None,
    segments: Segments | None = None,
    progress: bool = False,
) -> Report:
    """Accumulated perplexity of every method of a setup; all see the same tokens.

    Accumulated means of all tokens up to a length, so that the model's loss on the first segment counts as well.

    Args:
        texts: text files.
        context_lengths: tokens. None: 1, 4, 8 and 16 times the model's own window.
        samples: texts to take, from the files in turn; first from their beginnings, then from where the seed
            draws. None: the beginning of every file.

    Raises:
        InputError: no files, or a text shorter than the longest length.

    Source: Song et al., ICLR 2024, section 4.3 and appendix.
    """
    setup, segments = setup or Setup(), segments or Segments()
    lengths = _lengths(setup, context_lengths)
    documents = _documents(setup, texts, lengths[-1], samples)
    start = time.perf_counter()
    losses, resolved = _measure(setup, documents, segments, progress)
    settings = setup.to_dict() | dataclasses.asdict(segments) | {"context_lengths": lengths, "samples": len(documents)}
    settings |= {"texts": [os.path.basename(path) for path in texts], "resolved": resolved}
    rows = tuple(_row(name, length, losses[name]) for name in losses for length in lengths)
    points = sorted({*lengths, *(max(2, lengths[-1] * i // _POINTS) for i in range(1, _POINTS + 1))})
    curves = {name: _curve(points, losses[name]) for name in losses}
    cases = tuple(_cases(losses, lengths))
    return Report("perplexity", "perplexity", settings, rows, cases, time.perf_counter() - start, curves)


Losses = dict[str, list[Tensor]]  # method -> the losses of every text


def _lengths(setup: Setup, given: Sequence[int] | None) -> list[int]:
    lengths = sorted(set(default_lengths(setup, WINDOWS) if given is None else given))
    if not lengths or lengths[0] < 2:
        raise ConfigError(f"context_lengths={list(lengths)}: give lengths of at least 2 tokens")
    return lengths


def _measure(
    setup: Setup, documents: Sequence[Tensor], segments: Segments, progress: bool
) -> tuple[Losses, dict[str, Any]]:
    """The losses of every method, and the settings that it came to."""
    losses: Losses = {name: [] for name in setup.methods}  # in the order asked for
    resolved: dict[str, Any] = {}
    total = len(setup.methods) * sum(map(len, documents))
    with tqdm(total=total, disable=not progress, unit="tok") as bar:
        for method in open_methods(setup):
            bar.set_description(f"perplexity {method.name}")
            resolved[method.name] = method.facts()
            losses[method.name] = [_losses(method, document, segments, bar) for document in documents]
    return losses, resolved


def _cases(losses: Losses, lengths: Sequence[int]) -> Iterator[dict[str, Any]]:
    for name, texts in losses.items():
        for number, loss in enumerate(texts):
            yield {"method": name, "sample": number} | {str(n): _accumulated([loss], n) for n in lengths}


def token_losses(method: Method, ids: Tensor, segments: Segments | None = None) -> Iterator[Tensor]:
    """The loss of every token (n,) but the first, in nats, segment by segment.

    The plain model predicts each token from all before it; a HOMER method from its segment and a compact cache of all
    text before the segment, compressed between that text's first and last tokens.
    """
    segments = segments or Segments()
    length = segments.length(method)
    plain = _plain_logits(method.model, ids, length)
    logits = _compact_logits(method.model, ids, length, segments.affix_len) if method.compresses else plain
    last: Tensor | None = None
    for start, rows in zip(range(0, len(ids), length), logits, strict=True):
        targets = ids[start : start + length].to(rows.device)
        if method.compresses:  # row i already predicts token i, but for the very first token
            yield cross_entropy(rows[-len(targets) :].float(), targets, reduction="none")[int(start == 0) :].cpu()
        else:
            before = rows[:-1] if last is None else torch.cat([last, rows[:-1]])
            yield cross_entropy(before.float(), targets[-len(before) :], reduction="none").cpu()
            last = rows[-1:]


def _plain_logits(model: HomerModel, ids: Tensor, length: int) -> Iterator[Tensor]:
    """Logits (n, vocabulary) of each segment after all text before it; row i predicts token i + 1."""
    cache = DynamicCache()
    device = model.decoder.device
    for start in range(0, len(ids), length):
        part = ids[start : start + length].to(device)[None]
        positions = torch.arange(start, start + part.shape[1], device=device)[None]
        with torch.no_grad():
            output: Any = model.model(part, past_key_values=cache, position_ids=positions, use_cache=True)
        yield output.logits[0]


def _compact_logits(model: HomerModel, ids: Tensor, length: int, affix_len: int) -> Iterator[Tensor]:
    """Logits (n, vocabulary) of each segment; row i predicts token i, from a compact cache of the text before."""
    first = next(_plain_logits(model, ids[:length], length))
    yield torch.cat([first[:1], first[:-1]])
    for start in range(length, len(ids), length):
        part = ids[start : start + length]
        cache = model.compress(ids[:affix_len], ids[affix_len : start - affix_len], ids[start - affix_len : start])
        rows = model.forward(part, cache)[0]
        yield torch.cat([cache.logits.to(rows), rows[:-1]])


def _losses(method: Method, ids: Tensor, segments: Segments, bar: Any) -> Tensor:
    """All losses of a text (n - 1,), or as many as memory allows."""
    parts: list[Tensor] = []
    try:
        for part in token_losses(method, ids, segments):
            parts.append(part)
            bar.update(len(part) + (len(parts) == 1))
    except torch.OutOfMemoryError:
        logger.warning("%s ran out of memory after %d of %d tokens", method.name, sum(map(len, parts)), len(ids))
    return torch.cat(parts) if parts else torch.zeros(0)


def _accumulated(losses: Sequence[Tensor], length: int) -> float | None:
    """Perplexity of all tokens up to `length`; None where memory ended before."""
    if any(len(loss) < length - 1 for loss in losses):
        return None
    mean = torch.cat([loss[: length - 1].double() for loss in losses]).mean().item()
    return round(math.exp(min(mean, 700)), 4)


def _row(method: str, length: int, losses: Sequence[Tensor]) -> dict[str, Any]:
    value = _accumulated(losses, length)
    row: dict[str, Any] = {"method": method, "length": length, "samples": len(losses), "perplexity": value}
    return row | ({"error": "out of memory"} if value is None else {})


def _curve(points: Sequence[int], losses: Sequence[Tensor]) -> list[tuple[int, float]]:
    values = ((point, _accumulated(losses, point)) for point in points)
    return [(point, value) for point, value in values if value is not None]


def _documents(setup: Setup, texts: Sequence[FilePath], length: int, samples: int | None) -> list[Tensor]:
    """(length,) ids of every sample, with a BOS where the tokenizer puts one."""
    if not texts:
        raise InputError("0 text files: give at least one")
    if samples is not None:
        check_whole("samples", samples, 1, error=ConfigError)
    tokenizer = PieceTokenizer(setup.tokenizer())
    leading = tokenizer.leading_ids()
    wanted = length - len(leading)
    files = [torch.tensor(tokenizer.tokenize(Piece(read_text(path))).ids) for path in texts]
    for path, ids in zip(texts, files, strict=True):
        if len(ids) < wanted:
            raise InputError(
                f"{path} holds {len(ids):,} tokens, the longest context length is {length:,}: give a longer text, or "
                f"lower the lengths"
            )
    random = Random(f"perplexity {setup.seed}")
    documents = []
    for sample in range(len(files) if samples is None else samples):
        ids = files[sample % len(files)]
        first = 0 if sample < len(files) else random.randint(0, len(ids) - wanted)
        documents.append(torch.cat([torch.tensor(leading).long(), ids[first : first + wanted]]))
    return documents
