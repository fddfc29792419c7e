"""Compressor: shortens documents to what a question asks for, as text, for any model downstream."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor
from tqdm.auto import tqdm

from homer.backends.pausing import pausing
from homer.base.arguments import check_real, check_text, check_whole
from homer.config import HomerConfig
from homer.errors import InputError
from homer.merging.looking import look_at
from homer.model.model import HomerModel
from homer.model.parts import Keep, Parts
from homer.plan.windows import Leaf, windows
from homer.significance.evidence import QuestionLook, stretches
from homer.significance.question import Question, votes
from homer.significance.sentences import number_parts
from homer.significance.words import shared_words
from homer.text.documents import Document, DocumentLike
from homer.text.picking import Picker
from homer.text.prompt import Prompt, PromptBuilder
from homer.view.compressed import Compressed, Spans, assemble
from homer.view.sources import Usage

logger = logging.getLogger(__name__)

MARKER = "[...]"
KEEPS = get_args(Keep)


class Compressor:
    """Shortens documents to what a question asks for: as text, so that any model can read it, also a remote one.

    The question's tokens look at all of the documents through the few attention heads that find what is asked for
    (see `Question`), leaf by leaf, and words that they share with it count beside; only the layers up to the last of
    these heads run, and nothing is generated. The heads are measured on first use, as `HomerModel.ask` does. All
    methods may be called from several threads at once.

    Args:
        model: a model with its tokenizer; it is not changed.
        marker: stands where something was left out; "" for nothing.
        count: gives the tokens of a text, as the model counts them that will read it; None: by this model's tokenizer.
        config: in place of the model's own: `max_chunk_len` is the longest leaf, and `chunk_batch_size` of them run at
            a time; a `Question` as significance says how many heads look, what a passage's votes weigh, how sharp the
            votes are, and what documents' scores by a retriever do.

    Raises:
        InputError: no HomerModel, one without a tokenizer, a marker that is no text, or a count that counts nothing.
    """

    def __init__(
        self,
        model: HomerModel,
        *,
        marker: str = MARKER,
        count: Callable[[str], int] | None = None,
        config: HomerConfig | None = None,
    ) -> None:
        if not isinstance(model, HomerModel):
            raise InputError(f"model is a {type(model).__name__}: give a HomerModel, HomerModel.from_pretrained(...)")
        self._model, self._marker = model, check_text("marker", marker)
        self._builder = PromptBuilder(model.require_tokenizer("compress documents"), model.chat_template_kwargs)
        if count is not None and not callable(count):
            raise InputError(f"count={count!r} is no function: give one from a text to its number of tokens")
        self._counts = count
        self._config = config or model.config
        model._settings.resolve(self._config)

    def compress(
        self,
        question: str,
        documents: Sequence[DocumentLike],
        *,
        max_tokens: int | None = None,
        max_share: float | None = None,
        top_k: int | None = None,
        keep: Keep = "sentences",
        progress: bool = False,
        tick: Callable[[], None] = lambda: None,
    ) -> Compressed:
        """The parts of documents that a question asks for, within one budget, in the order in which they stand.

        Of each document whole sentences stay, rows of a table with their header, list items and blocks of code. The
        best parts are taken first; one that does not fit is passed over.

        Args:
            question: what is asked.
            documents: as in `HomerModel.ask`, of any number and length.
            max_tokens: tokens that may be handed out, as `count` counts them, markers included, titles not.
            max_share: the same as a share of all tokens, above 0 to 1.
            top_k: so many of the best sentences, passages or documents.
            keep: what stays or goes as a whole: "sentences"; "passages", which are paragraphs, of long ones a few
                sentences; or "documents".
            progress: show a progress bar, a step a leaf.
            tick: called after every batch of leaves; what it raises ends the work.

        Raises:
            InputError: no budget or several, one out of range, no documents, or an empty question.
            CalibrationError: a model of which it is not known which heads find what is asked for.
        """
        self.check(max_tokens, max_share, top_k, keep)
        prompt, parts = self._read(question, documents, progress, tick)
        if max_share is not None:
            max_tokens = max(1, int(max_share * sum(self._sizes(prompt, parts))))
        return self._choose(prompt, parts, keep, max_tokens, top_k)

    @staticmethod
    def check(
        max_tokens: int | None = None, max_share: float | None = None, top_k: int | None = None, keep: str = "sentences"
    ) -> None:
        """Raise InputError now, at no cost, where `compress` would for these settings."""
        _check_budget(max_tokens, max_share, top_k)
        if keep not in KEEPS:
            raise InputError(f"keep={keep!r} is none: give {', '.join(map(repr, KEEPS))}")

    def score(self, question: str, documents: Sequence[DocumentLike], *, progress: bool = False) -> tuple[float, ...]:
        """For each document its share of all their scores, 0 to 1: what a reranker gives; compare those of one call.

        Raises:
            InputError, CalibrationError: as `compress`.
        """
        return self._read(question, documents, progress)[1].shares

    def _read(
        self,
        question: str,
        documents: Sequence[DocumentLike],
        progress: bool = False,
        tick: Callable[[], None] = lambda: None,
    ) -> tuple[Prompt, Parts]:
        """The prompt that asks, and what the question's votes make of its documents."""
        prompt = self._builder.build(question, documents)
        found = self._question.weighed(self._look(prompt, progress, tick), prompt.document_ranks)
        return prompt, Parts.of(prompt, found, self._question.sharpness)

    def _choose(self, prompt: Prompt, parts: Parts, keep: Keep, room: int | None, top_k: int | None) -> Compressed:
        """The best parts within a budget."""
        sizes = self._sizes(prompt, parts)
        picker = Picker(parts.units, sizes, self._count(f"\n{self._marker}\n"), room)
        picker.pick(parts.groups(keep, self._question.passages), top_k)
        return self._hand_out(prompt, parts, picker, room, sum(sizes))

    def _sizes(self, prompt: Prompt, parts: Parts) -> list[int]:
        """Tokens of every unit."""
        if self._counts is None:
            return list(parts.tokens.tolist())
        both = zip(prompt.documents, parts.units, strict=True)
        return [self._count(document.text[unit.start : unit.end]) for document, units in both for unit in units]

    @property
    def _question(self) -> Question:
        given = self._config.significance
        return given if isinstance(given, Question) else Question()

    def _look(self, prompt: Prompt, progress: bool, tick: Callable[[], None]) -> Tensor:
        """(stretches, context) votes of the question, each head's the same."""
        first, end = prompt.question_span or (0, len(prompt.suffix_ids))
        leaves = self._leaves(prompt)
        heads = self._question.question_heads(self._model._calibrated(self._question))
        look = QuestionLook(heads, len(prompt.suffix_ids) - end, stretches(end - first))
        length = len(prompt.prefix_ids) + leaves[0].end - leaves[0].start + len(prompt.suffix_ids)
        size = self._model._settings.at_once(self._config, length, len(leaves))
        with tqdm(total=len(leaves), desc="looking", unit="leaf", disable=not progress) as bar:

            def step(done: int) -> None:
                bar.update(done)
                tick()

            with pausing(tick):
                attention = look_at(
                    self._model.decoder, prompt.parts, look, leaves, batch_size=size, tick=step,
                    replicas=self._model._replicas,
                )  # fmt: skip
        seen = torch.stack([votes(one, 0, 0) for one in attention]).mean(0)
        return seen * self._likelier(prompt, range(first, end))

    def _likelier(self, prompt: Prompt, asking: range) -> Tensor | float:
        """(context,) factors of at most 1, by the words that documents share with the question.

        They count as much as in `Question.rank`, which weighs them against a sum of powers: here its root is taken.
        """
        if not self._question.reads_words:
            return 1.0
        tokenizer, before = self._model.tokenizer, len(prompt.prefix_ids)
        ids = torch.cat(prompt.parts)
        context, parts = range(before, len(ids) - len(prompt.suffix_ids)), number_parts(tokenizer, ids)
        assert parts is not None  # there is a tokenizer
        question = range(context.stop + asking.start, context.stop + asking.stop)
        told = shared_words(tokenizer, ids, context, question, *parts)[before : context.stop]
        return ((told - told.max()) * self._question.words / self._question.sharpness).exp()

    def _leaves(self, prompt: Prompt) -> list[Leaf]:
        longest = self._model._settings.resolve(self._config).max_chunk_len
        affix = len(prompt.prefix_ids) + len(prompt.suffix_ids)
        if longest - affix < min(2, len(prompt.context_ids)):
            raise InputError(
                f"the question and the template take {affix} of max_chunk_len={longest} tokens, which leaves no room "
                f"for 2 tokens of documents: shorten the question, or raise max_chunk_len to {affix + 2} at least"
            )
        borders = [0, *(prompt.origins[:, 0].diff().nonzero().flatten() + 1).tolist()]
        return windows(len(prompt.context_ids), longest - affix, borders)

    def _count(self, text: str) -> int:
        if self._counts is None:
            return len(self._builder.tokenize(text)[0])
        tokens = self._counts(text)
        check_whole("what count gives for a text", tokens, 0)
        return int(tokens)

    def _hand_out(self, prompt: Prompt, parts: Parts, picker: Picker, room: int | None, total: int) -> Compressed:
        """What was picked as text; where that takes more tokens than its parts did, what came last goes again."""
        left: dict[int, _Left] = {}
        changed = set(range(len(parts.units)))
        while changed:
            for number in changed:
                left.pop(number, None)
                kept = picker.kept(parts.firsts[number], parts.firsts[number + 1])
                if kept:
                    text, spans = assemble(prompt.documents[number].text, parts.units[number], kept, self._marker)
                    left[number] = _Left(text, spans, self._count(text))
            over = room is not None and sum(one.tokens for one in left.values()) > room
            changed = {int(parts.owners[unit]) for unit in picker.drop()} if over else set()
        if not left:
            logger.warning("max_tokens=%s of %d: not one part fits, so none is handed out", room, total)
        numbers = tuple(sorted(left))
        documents = tuple(Document(left[number].text, prompt.documents[number].title) for number in numbers)
        usage = Usage(total, sum(one.tokens for one in left.values()), 0)
        return Compressed(documents, numbers, tuple(left[number].spans for number in numbers), parts.shares, usage)


class _Left(NamedTuple):
    """What is left of one document."""

    text: str
    spans: Spans
    tokens: int


def _check_budget(max_tokens: int | None, max_share: float | None, top_k: int | None) -> None:
    given = {"max_tokens": max_tokens, "max_share": max_share, "top_k": top_k}
    named = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    if len(named) != 1:
        shown = f" ({', '.join(named)})" if named else ""
        raise InputError(f"{len(named)} budgets are given{shown}: give exactly 1 of max_tokens, max_share and top_k")
    for name in ("max_tokens", "top_k"):
        if given[name] is not None:
            check_whole(name, given[name], 1)
    if max_share is not None:
        check_real("max_share", max_share, 0, 1)
        if not max_share:
            raise InputError("max_share=0 leaves nothing: give a share above 0, 1 at most")
