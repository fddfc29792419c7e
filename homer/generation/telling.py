"""Telling: what is told of a stream's tokens, each as soon as it is certain that its text stays."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from homer.generation.scores import Score
from homer.text.spelling import Spelling
from homer.view.logprobs import TokenLogprob


class Teller:
    """Log-probabilities of the tokens of one stream.

    Args:
        scores: of every token so far; it grows as they come.

    Attributes:
        told: of the tokens that the text begins with.
    """

    def __init__(self, scores: Sequence[Score], spelling: Spelling) -> None:
        self.told: list[TokenLogprob] = []
        self._scores, self._spelling = scores, spelling
        self._held: deque[tuple[int, TokenLogprob]] = deque()

    def note(self, number: int, token: int, start: int) -> None:
        """A token by its number among all, and the characters before it; the next ones may be a stop string's."""
        score, spell = self._scores[number], self._spelling.of
        top = [TokenLogprob.of(other, logprob, spell(other)) for other, logprob in score.top]
        self._held.append((start, TokenLogprob.of(token, score.logprob, spell(token), top)))

    def settle(self, end: int | None) -> None:
        """The text is certain up to this character; None: no more comes, and nothing was cut."""
        while self._held and (end is None or self._held[0][0] < end):
            self.told.append(self._held.popleft()[1])
