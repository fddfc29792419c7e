"""Choosing: one request's next token from its logits, and its number from a GPU without waiting for more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from homer.generation.sampling import Sampling
from homer.text.constraining.matching import Guide


class Chooser:
    """Chooses the tokens of one request: it holds its processors, its random numbers, and what it has seen.

    After every `choose`, and before the next, `accept` says which token it was: a GPU may run ahead of the program.

    Args:
        token_ids: (1, kept), the tokens of the prompt that survived.
        device: where the logits will be.
        matcher: the way through the sampling's grammar, if it has one.

    Attributes:
        logprobs: of how many tokens beside each chosen one the log-probability is wanted; None of none at all.
        matcher: the same; its mask comes before all else, so that sampling shares out what the grammar allows.
    """

    def __init__(
        self, sampling: Sampling, token_ids: Tensor, device: torch.device, matcher: Guide | None = None
    ) -> None:
        self.matcher, self.logprobs = matcher, sampling.logprobs
        self._processors: Any = sampling.processors()
        self._samples = sampling.samples
        self._counts = sampling.repetition_penalty != 1.0  # all other processors look at logits alone
        self._seen = token_ids.to(device)
        self._generator = None if sampling.seed is None else torch.Generator(device).manual_seed(sampling.seed)

    @property
    def plain(self) -> bool:
        """Whether it takes the likeliest token of those its grammar allows, as many rows may at once."""
        return not self._processors and not self._samples

    @property
    def finished(self) -> bool:
        """Whether the text is whole, since its grammar lets nothing more come."""
        return self.matcher is not None and self.matcher.finished

    def choose(self, logits: Tensor) -> Tensor:
        """The next token, a tensor of no dimensions, from logits (1, vocabulary)."""
        return self.pick(logits if self.matcher is None else self.matcher.mask(logits))

    def pick(self, logits: Tensor) -> Tensor:
        """The same from logits in which the grammar's mask is already."""
        if self._processors:
            logits = self._processors(self._seen, logits.float())  # 16 bits are few for a quotient
        if not self._samples:
            return logits.argmax(-1)[0]
        return torch.multinomial(logits.softmax(-1), 1, generator=self._generator)[0, 0]

    def accept(self, token: int) -> None:
        """Note the token that was chosen. Raises GenerationError where a grammar can no longer be followed."""
        if self.matcher is not None:
            self.matcher.accept(token)
        if self._counts:
            self._seen = torch.cat([self._seen, self._seen.new_tensor([[token]])], 1)


def reader(*tensors: Tensor) -> Callable[[], list[Any]]:
    """What gives the numbers in tensors; from a GPU, without waiting for what is begun after this call."""
    if tensors[0].device.type != "cuda":
        return lambda: [tensor.tolist() for tensor in tensors]
    hosts = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for host, tensor in zip(hosts, tensors, strict=True):
        host.copy_(tensor, non_blocking=True)
    copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(tensors[0].device))

    def read() -> list[Any]:
        copied.synchronize()
        return [host.tolist() for host in hosts]

    return read
