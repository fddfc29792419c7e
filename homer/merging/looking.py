"""Looking only: how much attention a question gives to every token of a context, leaf by leaf, with nothing merged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from homer.backends.base import Decoder
from homer.backends.devices import Replicas, deal
from homer.plan.windows import Leaf
from homer.significance.evidence import QuestionLook


def look_at(
    decoder: Decoder,
    parts: tuple[Tensor, Tensor, Tensor],
    look: QuestionLook,
    leaves: Sequence[Leaf],
    *,
    batch_size: int = 1,
    tick: Callable[[int], None] = lambda leaves: None,
    replicas: Replicas | None = None,
) -> Tensor:
    """(heads, stretches, context), float32, on the CPU: the attention that every stretch of a question gives.

    Only the layers up to the last head that counts are run, and nothing is kept of them. Every row is a share of what
    its head gives a whole leaf, affix included: a leaf that holds nothing of interest leaves it to the affix, so that
    leaves can be compared.

    Args:
        parts: ids of prefix, context and suffix, (n,) each.
        leaves: equally long, in order; their own parts cover the context.
        tick: called with the number of leaves after every batch; what it raises ends the work.
        replicas: the decoder and its copies on other devices, by which batches are run in turn.
    """
    prefix, context, suffix = parts
    heads = sum(map(len, look.heads.values()))
    found = torch.zeros(heads, len(look.weights), len(context))

    def see(batch: Sequence[Leaf], decoder: Decoder) -> Tensor:
        rows = [torch.cat([prefix, context[leaf.start : leaf.end], suffix]) for leaf in batch]
        ids = torch.stack(rows).to(decoder.device)
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        seen = decoder.run(0, max(look.heads) + 1, ids, positions, question=look).attention
        return torch.cat([seen[layer].to(ids.device) for layer in sorted(seen)], 1).cpu()

    batches = [leaves[i : i + batch_size] for i in range(0, len(leaves), batch_size)]
    calls = (functools.partial(see, batch) for batch in batches)
    for batch, attention in zip(batches, deal(calls, decoder, replicas), strict=True):
        for row, leaf in enumerate(batch):
            start = len(prefix) + leaf.first - leaf.start
            found[:, :, leaf.first : leaf.last] = attention[row, :, :, start : start + leaf.last - leaf.first]
        tick(len(batch))
    return found
