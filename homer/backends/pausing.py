"""Pausing: between any two layers of a long run, the thread that runs them may let others go first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Turn = contextlib.AbstractContextManager[object]

# Of this thread and this call alone: handed on as arguments, they would go through all that ever runs a layer.
_TICK: ContextVar[Callable[[], None] | None] = ContextVar("tick", default=None)
_TURN: ContextVar[Turn | None] = ContextVar("turn", default=None)


@contextlib.contextmanager
def pausing(tick: Callable[[], None], turn: Turn | None = None) -> Iterator[None]:
    """Within it, `tick` is called between layers that this thread runs; what it raises ends their run.

    Args:
        turn: what `in_turn` enters; None: as it was before.
    """
    tokens = _TICK.set(tick), _TURN.set(turn or _TURN.get())
    try:
        yield
    finally:
        _TICK.reset(tokens[0])
        _TURN.reset(tokens[1])


def in_turn() -> Turn:
    """What this thread is to compute within, so that it waits for others outside of it."""
    return _TURN.get() or contextlib.nullcontext()


@contextlib.contextmanager
def for_others() -> Iterator[None]:
    """Within it, what this thread's tick raises does not end the run, which others need as well; it is raised then."""
    tick, raised = _TICK.get(), list[Exception]()

    def go_on() -> None:
        try:
            if tick is not None and not raised:
                tick()
        except Exception as error:
            raised.append(error)

    with contextlib.nullcontext() if tick is None else pausing(go_on):
        yield
    if raised:
        raise raised[0]


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
