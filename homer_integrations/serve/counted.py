"""Counted: answers on their way, which count as one request that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from homer import Answer, AnswerStreams


class Counted(Iterator[str]):
    """Counts as running from the first text asked for until the last one ends.

    Args:
        count: told 1 and -1.
    """

    def __init__(self, streams: AnswerStreams, count: Callable[[int], None]) -> None:
        self._streams, self._parts, self._count = streams, streams.parts(), count
        self._begun = self._ended = False

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        if not self._begun:
            self._begun = True
            self._count(1)
        try:
            return next(self._parts)
        except BaseException:
            self._ended = True
            self._count(-1)
            raise

    def parts(self) -> Iterator[str]:
        """All pieces, those of thoughts as well."""
        return self

    def cancel(self) -> None:
        """As AnswerStreams.cancel."""
        self._streams.cancel()

    def answer(self) -> tuple[Answer, ...]:
        """The answers that were asked for."""
        return self._streams.answers()
