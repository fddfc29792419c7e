"""Measuring a calibration: the paper's bias, every head's mean and deviation, and the heads that find evidence."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from homer.backends.base import Decoder
from homer.calibrating.base import Measurable
from homer.calibrating.synthetic import Segment, draw_segments, own_text
from homer.errors import CalibrationError
from homer.significance.calibration import Calibration
from homer.significance.scores import LEAST_DEVIATION, z_scores
from homer.text.tokenizing import Piece, PieceTokenizer

SMOOTHED = 31  # distances; a single one sees only as many tokens as there are prompts
_NEEDLES = 100
Text = Iterable[str | Sequence[int] | Tensor] | str | Tensor


def calibrate(
    model: Measurable,
    texts_or_ids: Text | None = None,
    *,
    segments: int = 100,
    segment_len: int | None = None,
    batch_size: int = 4,
    prompts: int = 200,
    heads: bool = False,
    progress: bool = False,
) -> Calibration:
    """Measure a calibration on text like the text to be compressed.

    The bias is, at every layer, the mean over segments of the largest logit over heads that the last token of a
    segment gives each distance. Means and deviations are of every head's logits, over prompts in the model's own
    format that ask what the text does not tell, smoothed over 31 distances; of a model without a tokenizer, over
    the segments.

    Args:
        texts_or_ids: texts, or token ids where the model has no tokenizer; joined, then cut into segments.
            None: text that the library has at hand.
        segments: how many to take for the bias, spread over all text; the paper takes 100 of WikiText-103.
        segment_len: tokens of a segment and of a prompt. None: the model's max_chunk_len.
        prompts: how many to take for means and deviations, from anywhere in the text; 0 leaves them out.
        heads: find the evidence heads as well, by 100 prompts that state the answer.

    Returns:
        A Calibration of shape (layers, segment_len).

    Raises:
        CalibrationError: less text than one segment, or a segment that has no room for a prompt.

    Source: Song et al., ICLR 2024, section 3.3, for the bias; the rest is this library's own.
    """
    decoder = model.decoder
    length = segment_len or model.config.resolve(decoder.window, decoder.layers, decoder.sliding_window).max_chunk_len
    ids = _all_ids(model, own_text(Random(0)) if texts_or_ids is None else texts_or_ids)
    rows = _segments(ids, length, segments)
    made = _prompts(model, ids, rows, length, prompts)
    sought = _needles(model, ids, length) if heads else []
    metadata = {
        "model": model.name, "dtype": str(decoder.dtype), "rope": decoder.rope, "segment_len": length,
        "segments": len(rows), "prompts": len(made), "needles": len(sought),
    }  # fmt: skip
    total = len(rows) + len(made) + len(sought)
    with tqdm(total=total, desc="calibrating", unit="segment", disable=not progress) as bar:
        batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        bias = _sum(_loudness, decoder, batches, bar) / len(rows)
        result = Calibration(bias.float(), metadata)
        if made:
            means, deviations = smooth(_sum(_moments, decoder, _batches(made, batch_size), bar))
            result = dataclasses.replace(result, means=means.half(), deviations=deviations.half())
        if sought:
            find = functools.partial(_found, result)
            found = _sum(find, decoder, _batches(sought, batch_size), bar)
            result = dataclasses.replace(result, heads=(found / len(sought)).float())
    return result


def smooth(moments: Tensor, window: int = SMOOTHED) -> tuple[Tensor, Tensor]:
    """Means and deviations by distance from sums over tokens, each over a window of distances around it.

    Args:
        moments: (3, layers, heads, distances), how many tokens, the sum of their logits and of their squares.

    Returns:
        (layers, heads, distances) each; distances that no token had take those of the nearest that one had.
    """
    sums = F.avg_pool1d(moments.flatten(0, 1), window, 1, window // 2).view(moments.shape)
    there = moments[0, 0, 0].nonzero().flatten()
    distances: Tensor = torch.arange(moments.shape[-1])
    gaps = (distances[:, None] - there[None]).abs()
    nearest = there[gaps.argmin(1)]
    count, first, second = sums[..., nearest].unbind(0)
    mean = first / count
    deviation = (second / count - mean * mean).clamp(min=0).sqrt()
    return mean, deviation.clamp(min=LEAST_DEVIATION)


def _sum(measure: Callable[[Decoder, Any], Tensor], decoder: Decoder, batches: Iterable[Any], bar: tqdm[Any]) -> Tensor:
    """What is measured of every batch, added up."""
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        total = total + measure(decoder, batch)
        bar.update(len(batch))
    return total


def _loudness(decoder: Decoder, ids: Tensor) -> Tensor:
    """Sum over a batch (batch, length) of the largest logit over heads: (layers, distances)."""
    return _observed(decoder, ids).amax(2).sum(0).flip(-1)


def _moments(decoder: Decoder, batch: Sequence[Segment]) -> Tensor:
    """Count, sum and sum of squares of the logits of context tokens: (3, layers, heads, distances)."""
    logits = _observed(decoder, torch.stack([segment.ids for segment in batch]))
    inside = torch.stack([segment.context for segment in batch])[:, None, None].expand_as(logits).double()
    return torch.stack([inside.sum(0), (logits * inside).sum(0), (logits**2 * inside).sum(0)]).flip(-1)


def _found(calibration: Calibration, decoder: Decoder, batch: Sequence[Segment]) -> Tensor:
    """In how many of the prompts each head gives its largest z-score to a token of the evidence: (layers, heads)."""
    logits = _observed(decoder, torch.stack([segment.ids for segment in batch])).float()
    norms = calibration.norms_on(torch.device("cpu"))
    if norms is not None:
        distances = torch.arange(logits.shape[-1]).flip(0)[None]
        flat = z_scores(logits.flatten(1, 2), distances, *(norm.flatten(0, 1) for norm in norms))
        logits = flat.view(logits.shape)
    count = torch.zeros(logits.shape[1:3], dtype=torch.float64)
    for row, segment in zip(logits, batch, strict=True):
        count += segment.evidence[row.masked_fill(~segment.context, -torch.inf).argmax(-1)]
    return count


def _observed(decoder: Decoder, ids: Tensor) -> Tensor:
    """Last-query logits of whole chunks (batch, length) at all layers: (batch, layers, heads, length), on the CPU."""
    positions = torch.arange(ids.shape[1], device=decoder.device).expand(len(ids), -1)
    observed = decoder.run(0, decoder.layers, ids.to(decoder.device), positions, range(decoder.layers)).observed
    return torch.stack([observed[layer].cpu() for layer in range(decoder.layers)], 1).double()


def _prompts(model: Measurable, ids: Tensor, rows: Tensor, length: int, count: int) -> list[Segment]:
    """Prompts without the answer; without a tokenizer, rows of text."""
    if model.tokenizer is not None:
        return draw_segments(model, ids.tolist(), length, count)
    inside = torch.ones(length, dtype=torch.bool)
    return [Segment(row, inside, ~inside) for row in rows[:count]]


def _needles(model: Measurable, ids: Tensor, length: int) -> list[Segment]:
    """Prompts with the answer, where it was not cut off."""
    model.require_tokenizer("find evidence heads")
    drawn = draw_segments(model, ids.tolist(), length, _NEEDLES, needles=True, seed=1)
    whole = [segment for segment in drawn if segment.evidence.any()]
    if len(whole) < 1:
        raise CalibrationError(f"segments of {length} tokens have no room for a needle: raise segment_len")
    return whole


def _batches(items: Sequence[Segment], size: int) -> Iterator[Sequence[Segment]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _all_ids(model: Measurable, source: Any) -> Tensor:
    parts = [source] if isinstance(source, str | Tensor) else list(source)
    if parts and isinstance(parts[0], int):
        parts = [parts]
    if any(isinstance(part, str) for part in parts):
        tokenizer = PieceTokenizer(model.require_tokenizer("calibrate on text"))
        parts = [tokenizer.tokenize(Piece(part)).ids if isinstance(part, str) else part for part in parts]
    return torch.cat([torch.as_tensor(part).flatten().long() for part in parts] or [torch.zeros(0).long()])


def _segments(ids: Tensor, length: int, wanted: int) -> Tensor:
    available = len(ids) // length
    if available < 1:
        raise CalibrationError(f"{len(ids)} tokens of text, but one segment takes {length}: give more text")
    rows = ids[: available * length].view(available, length)
    chosen = torch.linspace(0, available - 1, min(wanted, available)).round().long()
    return rows[chosen]
