"""Log-probabilities: how likely the model held each token of its answer, and which others it held likely."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

MOST_ALTERNATIVES = 20
_Bytes = bytes  # the type, which a field below is called as
LEAST = -9999.0  # stands for less than can be told, since JSON knows no infinity


@dataclasses.dataclass(frozen=True)
class TokenLogprob:
    """One token of an answer.

    Attributes:
        token: its text; where it holds a part of a character, that part is U+FFFD.
        logprob: the natural logarithm of its probability by the model itself: at temperature 1, before any penalty,
            any cut by top_k, top_p or min_p, and before a grammar leaves out what it does not allow. A token that a
            grammar forced may thus be an unlikely one.
        bytes: its bytes; those of all tokens together are the text, but for white space at its ends.
        id: its number in the vocabulary.
        top: the likeliest tokens in its stead, by the same measure, likeliest first, without any of their own.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...] = ()
    id: int = -1
    top: tuple[TokenLogprob, ...] = ()

    @classmethod
    def of(cls, token: int, logprob: float, spelled: _Bytes, top: Sequence[TokenLogprob] = ()) -> TokenLogprob:
        """A token by its number and its bytes."""
        return cls(spelled.decode("utf-8", "replace"), max(logprob, LEAST), tuple(spelled), token, tuple(top))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        plain = dataclasses.asdict(self) | {"bytes": list(self.bytes)}
        return plain | {"top": [other.to_dict() for other in self.top]}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> TokenLogprob:
        """What `to_dict` wrote."""
        top = tuple(cls.from_dict(other) for other in facts.get("top", ()))
        return cls(**dict(facts) | {"bytes": tuple(facts["bytes"]), "top": top})


class Piece(str):
    """A piece of an answer's text as it comes.

    Attributes:
        logprobs: of the tokens that came with it, where they were asked for.
        choice: of several answers to one prompt, which it is of.
    """

    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0

    def __new__(cls, text: str, logprobs: Sequence[TokenLogprob] = (), choice: int = 0) -> Piece:
        """A piece, which is its text."""
        piece = super().__new__(cls, text)
        piece.logprobs, piece.choice = tuple(logprobs), choice
        return piece

    def __getnewargs__(self) -> tuple[Any, ...]:
        """As it travels to another process."""
        return str(self), self.logprobs, self.choice
