"""Batch: streams of one model go on together, a step for all of them, driven by whichever thread wants its token."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from homer.backends.base import Decoder, not_none
from homer.backends.slots import SIZES, Entry, Slots
from homer.base.locks import Lock, renew_after_fork
from homer.errors import GenerationError
from homer.generation.choosing import Chooser, reader
from homer.generation.sampling import Sampling
from homer.generation.scores import Score, measure, told
from homer.generation.seat import AHEAD, Row, Seat
from homer.merging.cache import CompactCache
from homer.text.constraining.matching import Guide, mask_rows


class Batch:
    """Streams of one model, at most 32 of which take a step together; others wait for a slot.

    There is no thread of its own: of the threads that wait for a token, one leads, which is to run a step for all,
    and the others find theirs when it is done. A stream joins and leaves between steps. Who reads slowly holds up
    nobody: its stream rests once `AHEAD` tokens wait for it. Keys and values are held while somebody runs, and room for
    those that come where slots stay.

    Attributes:
        share: every step runs within it; it is entered by one thread at a time.
    """

    def __init__(self, decoder: Decoder, most: int = SIZES[-1]) -> None:
        self.share: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        self._decoder, self._most = decoder, most
        self._lock = Lock()  # for what follows; the last three belong to the leader alone
        self._leads = False
        self._left = False  # whether a row was closed that still has its slot
        self._asleep: set[Row] = set()
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []  # in the order of the slots
        self._slots: Slots | None = None
        self._tight = False  # whether memory was too small for one more
        renew_after_fork(self)

    def open(
        self,
        cache: CompactCache,
        sampling: Sampling,
        end_ids: frozenset[int] = frozenset(),
        matcher: Guide | None = None,
    ) -> Seat:
        """A seat from which the tokens that follow a cache come; nothing runs before the first is asked for.

        Args:
            end_ids: tokens after which nothing follows.
            matcher: the way through the sampling's grammar, if it has one.

        Raises:
            GenerationError: more tokens than the window leaves.
        """
        room = sampling.room(self._decoder.window, cache.next_position)
        logits = cache.logits.to(self._decoder.output_device)
        entry = Entry(cache.entries, logits, cache.next_position, room)
        return Seat(self, Row(entry, Chooser(sampling, cache.token_ids, logits.device, matcher), end_ids))

    def next(self, row: Row) -> int | None:
        """A row's next token, once it is there; None where no more come. Leads where nobody does."""
        while True:
            with self._lock:
                self._line_up(row)
                if row.tokens:
                    return row.tokens.popleft()
                if row.error is not None:
                    raise row.error
                if row.done:
                    return None
                leads, self._leads = not self._leads, True
                if not leads:
                    self._asleep.add(row)
            if leads:
                self._lead(self._shared_step)
            else:
                row.bell.acquire()

    def enter(self, row: Row) -> None:
        """A row wants its slot now, before it is read: rows that come together then join in one step."""
        with self._lock:
            self._line_up(row)

    def leave(self, row: Row) -> None:
        """A row gets no more tokens, and its slot is free: at once, or before the next step where one runs."""
        with self._lock:
            row.done = True
            if not row.entered:
                row.entry = None
                return
            self._left = True
            self._ring(row)
            if self._leads:
                return
            self._leads = True
        self._lead(self._sweep)

    def _line_up(self, row: Row) -> None:
        if row.wants_slot:
            row.entered = True
            self._waiting.append(row)

    def renew(self) -> None:
        """In a process that was forked off: whoever led or waited did not come along."""
        for row in (*self._rows, *self._waiting):
            row.error = GenerationError("this stream was begun in another process: begin it again in this one")
            row.entered = False
        self._leads = self._left = self._tight = False
        self._asleep, self._waiting, self._rows, self._slots = set(), deque(), [], None

    def _lead(self, work: Callable[[], None]) -> None:
        """Do what only one may do at a time; then wake whoever has got what it waits for, and a new leader."""
        while True:
            try:
                with torch.inference_mode(False), torch.no_grad():  # whatever mode the thread that leads is in
                    work()
            except BaseException as error:
                self._break(error)
                if not isinstance(error, Exception):
                    self._left = False
                    self._step_down()
                    raise
            if self._step_down():
                return
            work = self._sweep

    def _step_down(self) -> bool:
        """False where there is still something to do, since a row was closed meanwhile."""
        with self._lock:
            if self._left:
                return False
            self._leads = False
            for row in list(self._asleep):
                if row.tokens or row.done or row.error:
                    self._ring(row)
            for row in list(self._asleep)[:1]:  # it found no slot yet, and nobody may be left to lead
                self._ring(row)
            return True

    def _ring(self, row: Row) -> None:
        self._asleep.discard(row)
        row.ring()

    def _break(self, error: BaseException) -> None:
        """A step failed: all that took part have failed."""
        shown = error if isinstance(error, Exception) else GenerationError(f"a step was broken off: {error!r}")
        with self._lock:
            for row in self._rows:
                row.fail(shown)
            self._rows, self._slots = [], None

    def _shared_step(self) -> None:
        with self.share:
            self._step()

    def _step(self) -> None:
        """The next token of every row."""
        self._sweep()
        if self._rows and self._rows[0].chosen is not None:  # a GPU has begun already
            not_none(self._slots).step(torch.tensor([row.chosen for row in self._rows]))
        self._rest()
        self._admit()
        if not self._rows:
            return
        tokens = self._choose()
        wanted = [row.chooser.logprobs for row in self._rows]
        read = reader(tokens, *measure(not_none(self._slots).logits, tokens, wanted))
        ahead = tokens.device.type == "cuda"
        if ahead and any(row.left > 1 for row in self._rows):
            not_none(self._slots).step(tokens)  # while these are read
        numbers, *measured = read()
        self._give(numbers, told(measured, wanted), ahead)
        self._drop()

    def _choose(self) -> Tensor:
        """(rows,): every row's next token."""
        logits = mask_rows(not_none(self._slots).logits, [row.chooser.matcher for row in self._rows])
        tokens = logits.argmax(-1)  # of all at once: most rows are greedy, and each read of its own waits for the GPU
        for number, row in enumerate(self._rows):
            if not row.chooser.plain:
                with row.failing():
                    tokens[number] = row.chooser.pick(logits[number : number + 1])
        return tokens

    def _give(self, tokens: list[int], scores: list[Score | None], ahead: bool) -> None:
        for row, token in zip(self._rows, tokens, strict=True):
            with row.failing():
                row.chooser.accept(token)
        with self._lock:
            for row, token, score in zip(self._rows, tokens, scores, strict=True):
                row.chosen = None if ahead else token
                if not row.done:
                    row.give(token, score)

    def _sweep(self) -> None:
        """Take out those that were closed."""
        with self._lock:
            self._left = False
            for row in [row for row in self._waiting if row.done]:
                self._waiting.remove(row)
                row.free()
        self._drop()

    def _rest(self) -> None:
        """Take out those whose readers are behind; they join again when these come."""
        for number in reversed(range(len(self._rows))):
            row = self._rows[number]
            if len(row.tokens) >= AHEAD:
                row.entry = not_none(self._slots).take(number)
                self._take_out(number)

    def _drop(self) -> None:
        """Take out those that have ended."""
        for number in reversed(range(len(self._rows))):  # the last one moves into a free slot
            if self._rows[number].done:
                self._take_out(number)

    def _take_out(self, number: int) -> None:
        row, self._rows[number] = self._rows[number], self._rows[-1]
        self._rows.pop()
        self._tight, slots = False, not_none(self._slots)
        slots.leave(number)
        if not self._rows and not slots.stays():
            self._slots = None
        with self._lock:
            row.free()

    def _admit(self) -> None:
        """Let in those that wait, while there are slots and memory."""
        with self._lock:
            count = 0 if self._tight else min(len(self._waiting), self._most - len(self._rows))
            new = [self._waiting.popleft() for _ in range(count)]
        while new:
            try:
                self._join(new)
                return
            except Exception as error:
                if len(new) > 1:
                    new = self._fewer(new, len(new) // 2)
                elif self._rows and isinstance(error, torch.OutOfMemoryError):
                    self._tight = True
                    new = self._fewer(new, 0)
                else:
                    new[0].fail(error)
                    return

    def _fewer(self, new: list[Row], count: int) -> list[Row]:
        """The first ones; the others wait on."""
        with self._lock:
            self._waiting.extendleft(reversed(new[count:]))
        return new[:count]

    def _join(self, new: list[Row]) -> None:
        slots = self._decoder.slots() if self._slots is None else self._slots
        slots.join([not_none(row.entry) for row in new])
        for row in new:
            row.entry = None
        self._rows, self._slots = self._rows + new, slots
