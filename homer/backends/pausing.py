"""Pausing: between any two layers of a long run, the thread that runs them may let others go first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

# Of this thread and this call alone: handed on as an argument, it would go through all that ever runs a layer.
_TICK: ContextVar[Callable[[], None] | None] = ContextVar("tick", default=None)


@contextlib.contextmanager
def pausing(tick: Callable[[], None]) -> Iterator[None]:
    """Within it, `tick` is called between layers that this thread runs; what it raises ends their run."""
    token = _TICK.set(tick)
    try:
        yield
    finally:
        _TICK.reset(token)


def pause() -> None:
    """Let others go first, where somebody has asked for that."""
    tick = _TICK.get()
    if tick is not None:
        tick()


def stretches(first: int, end: int, tokens: int) -> list[tuple[int, int]]:
    """Layers first..end-1 in stretches with a pause after each; all at once where nobody pauses.

    The fewer tokens, the more layers in a stretch: to begin one costs about what some tokens of a small model cost.
    """
    step = max(end - first, 1) if _TICK.get() is None else max(_LAYERS, _WORK // tokens)
    return [(start, min(start + step, end)) for start in range(first, end, step)] or [(first, end)]


_LAYERS, _WORK = 2, 4096  # of a stretch: layers at least, and layers x tokens about
