"""Answer: what a model said, and what it had left of every document when it said so."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homer.errors import InputError
from homer.view.citations import Citation, Cited
from homer.view.logprobs import TokenLogprob
from homer.view.page import draw, in_notebook, page
from homer.view.sources import Passage, Source, Usage
from homer.view.trace import Trace, Traceable


class _MadeWhenAsked:
    """The attribute `trace`: what it is made of waits until somebody asks, for most answers are never drawn."""

    def __get__(self, answer: Answer | None, kind: type[Answer] | None = None) -> Trace | None:
        if answer is None:
            return None  # the default
        given: Trace | Traceable | None = vars(answer)["trace"]
        if isinstance(given, Traceable):  # two threads at once make two that are equal
            given = vars(answer)["trace"] = given.trace()
        return given

    def __set__(self, answer: Answer, value: Trace | Traceable | _MadeWhenAsked | None) -> None:
        vars(answer)["trace"] = None if value is self else value  # where none is given, dataclasses give the default


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: the answer.
        sources: one for each document, most relevant first.
        usage: token counts.
        finish_reason: "stop", or "length" where the answer was cut at max_new_tokens.
        question: what was asked, where that is known.
        trace: the documents and how far every part of them came up the tree; what `show` draws, and made when first
            asked for. None where the compact cache came from a file of a version that did not note it.
        citations: for each sentence of the text what it rests on, where that was asked for.
        parsed: where a schema was asked for, what the text says: of a class of pydantic an instance, else JSON
            values. None where the answer was cut. `to_dict` leaves it to the text.
        logprobs: of the tokens of the text, in their order, where they were asked for.
        reasoning: what the model thought before it answered; empty where it did not.
    """

    text: str
    sources: tuple[Source, ...]
    usage: Usage
    finish_reason: str
    question: str = ""
    trace: _MadeWhenAsked = dataclasses.field(default=_MadeWhenAsked(), repr=False)
    citations: tuple[Citation, ...] = ()
    parsed: Any = dataclasses.field(default=None, repr=False, compare=False)
    logprobs: tuple[TokenLogprob, ...] | None = dataclasses.field(default=None, repr=False)
    reasoning: str = dataclasses.field(default="", repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """As it travels to another process: with the trace, without what it is made of."""
        return vars(self) | {"trace": self.trace}

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; `from_dict` reads it, and so does `show`."""
        plain: dict[str, Any] = _nested(list, dataclasses.asdict(dataclasses.replace(self, parsed=None, logprobs=None)))
        del plain["parsed"], plain["logprobs"]
        if self.logprobs is None:
            return plain
        return plain | {"logprobs": [token.to_dict() for token in self.logprobs]}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Answer:
        """The answer that `to_dict` wrote.

        Raises:
            InputError: something else.
        """
        try:
            values: dict[str, Any] = _nested(tuple, dict(facts))
            values["sources"] = tuple(_read_source(source) for source in values["sources"])
            values["usage"] = Usage(**values["usage"])
            values["citations"] = tuple(_read_citation(citation) for citation in values.get("citations", ()))
            if values.get("logprobs") is not None:
                values["logprobs"] = tuple(TokenLogprob.from_dict(token) for token in values["logprobs"])
            values["trace"] = None if values.get("trace") is None else Trace.from_dict(values["trace"])
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"this is no answer that Answer.to_dict wrote ({error}): give an Answer, its "
                "to_dict(), or of a wrapper what it tells with trace=True"
            ) from None

    def show(self, path: str | os.PathLike[str] | None = None) -> Path | None:
        """Draw the documents with what survived, survival by document, and the tree.

        Args:
            path: write one HTML file there, which needs nothing else. None: display in a notebook, and
                elsewhere write a new file in the folder for temporary files.

        Returns:
            The file written, or None in a notebook.

        Raises:
            InputError: a path in a folder that is not there.
        """
        if path is None and in_notebook():
            draw(self._repr_html_())
            return None
        if path is None:
            handle, path = tempfile.mkstemp(".html", "homer-")
            os.close(handle)
        path = Path(path)
        if not path.parent.is_dir():
            raise InputError(f"no folder {path.parent} to write {path.name} to: make it first")
        path.write_text(self._page(whole=True), encoding="utf-8", errors="xmlcharrefreplace")
        return path

    def _repr_html_(self) -> str:
        """The drawing as notebooks show it."""
        return self._page(whole=False)

    def _page(self, *, whole: bool) -> str:
        drawn = self.text, self.question, self.finish_reason, self.sources, self.usage, self.trace
        return page(*drawn, whole=whole)


def show(answer: Answer | Mapping[str, Any], path: str | os.PathLike[str] | None = None) -> Path | None:
    """Draw an answer, or what its `to_dict` gave: see `Answer.show`.

    Raises:
        InputError: neither of the two, or a path in a folder that is not there.
    """
    return (answer if isinstance(answer, Answer) else Answer.from_dict(answer)).show(path)


def _read_source(facts: dict[str, Any]) -> Source:
    return Source(**facts | {"passages": tuple(Passage(**passage) for passage in facts["passages"])})


def _read_citation(facts: dict[str, Any]) -> Citation:
    return Citation(**facts | {"cited": tuple(Cited(**part) for part in facts["cited"])})


def _nested(kind: type, value: Any) -> Any:
    """A value in which all that is several is of one kind, lists or tuples."""
    if isinstance(value, dict):
        return {name: _nested(kind, item) for name, item in value.items()}
    return kind(_nested(kind, item) for item in value) if isinstance(value, tuple | list) else value
