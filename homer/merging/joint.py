"""Joint: short prompts that several threads want read at the same time go through the model as one batch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import torch
from torch.nn.utils.rnn import pad_sequence

from homer.backends.base import Decoder, LayerOutput, not_none
from homer.backends.pausing import for_others, in_turn, pause
from homer.base.locks import Lock, renew_after_fork
from homer.merging.chunk import Chunk
from homer.merging.leaves import Leaves
from homer.merging.walk import Choice, Walk
from homer.plan.batches import FULL, MOST
from homer.plan.schedule import MergePlan

logger = logging.getLogger(__name__)

_LOOK = 0.02  # seconds after which who waits looks whether its own caller still does


class Joint(Leaves):
    """Reads prompts that are one leaf, and come out whole, together with others of about their length.

    Nobody waits for company: a prompt that comes alone is read at once, as ever. Those that come meanwhile wait, and
    one of them leads next: it reads what fits together with its own, padded behind every row, where no token sees it.

    Attributes:
        rows: tokens of a batch at most, padding included; 0, as on a CPU, where it gains little: none is read so.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.rows = FULL // decoder.hidden_size if decoder.device.type == "cuda" else 0
        self._decoder = decoder
        self._lock = Lock()  # for what follows
        self._leads = False
        self._waiting: list[_Seat] = []
        renew_after_fork(self)

    def renew(self) -> None:
        """In a process that was forked off: whoever led or waited did not come along."""
        self._leads, self._waiting = False, []

    def takes(self, plan: MergePlan) -> bool:
        """Whether a prompt is such a one, and short enough for company."""
        length, steady = plan.lengths[0][0], self._decoder.steady_len
        fits = 2 * length <= self.rows and (steady is None or length <= steady)
        return fits and not plan.height and not plan.prunes and self._on_usual_stream and self._decoder.reads_together

    def chunks(self, walk: Walk) -> Iterator[Chunk]:
        """As `Leaves.chunks`, of a plan that it takes: read by the thread that calls, or by another that leads.

        What that thread's tick raises ends no other's prompt; nor does a batch that fails: each is then read alone.
        """
        yield self._chunk(walk)

    def _chunk(self, walk: Walk) -> Chunk:
        seat = _Seat(walk.leaf(0))
        with self._lock:
            self._waiting.append(seat)
        try:
            while seat.output is None:
                if not self._may_lead(seat):
                    seat.wait()
                elif (chunk := self._lead(seat, walk)) is not None:
                    return chunk
        finally:
            with self._lock:
                seat.gone = True
                self._waiting = [one for one in self._waiting if one is not seat]
        return walk.prune(seat.chunk, seat.output, 0, 0, 0, Choice(None, None))

    @property
    def _on_usual_stream(self) -> bool:
        """Whether this thread launches on the stream of all others, so that what one makes is there for all."""
        device = self._decoder.device
        return device.type != "cuda" or torch.cuda.current_stream(device) == torch.cuda.default_stream(device)

    def _may_lead(self, seat: _Seat) -> bool:
        with self._lock:
            if self._leads or seat not in self._waiting:
                return False
            self._leads = True
            return True

    def _lead(self, seat: _Seat, walk: Walk) -> Chunk | None:
        """Read all that fits together; the chunk where nothing did. Then another may lead."""
        try:
            with in_turn():
                company = self._company(seat)
                if len(company) == 1:
                    (chunk,) = walk.run_together([seat.chunk], 0, [0])
                else:
                    chunk = None
                    with for_others():
                        self._read(company, walk)
                self._settle()
                return chunk
        finally:
            with self._lock:
                self._leads = False
                for one in self._waiting[:1]:
                    one.bell.set()

    def _company(self, seat: _Seat) -> list[_Seat]:
        """Who is read now: the nearest in length, while a quarter of the batch is padding at most."""
        with self._lock:
            company = [seat]
            for other in sorted(self._waiting, key=lambda other: abs(len(other) - len(seat))):
                lengths = [len(one) for one in (*company, other)]
                rows = len(lengths) * max(lengths)
                fits = rows <= self.rows and len(lengths) <= MOST and 4 * (rows - sum(lengths)) <= rows
                if fits and other is not seat and not (seat.alone or other.alone):
                    company.append(other)
            self._waiting = [one for one in self._waiting if one not in company]
        return company

    def _read(self, company: list[_Seat], walk: Walk) -> None:
        """Run a batch, and give each its row; where that fails, each waits again, to be read alone."""
        try:
            self._run(company, walk)
        except BaseException as error:
            logger.info("%d prompts are read one by one, since together they failed: %s", len(company), error)
            with self._lock:
                for one in company:
                    one.alone = True
                self._waiting = [one for one in company if not one.gone] + self._waiting
            if not isinstance(error, Exception):
                raise

    def _run(self, company: list[_Seat], walk: Walk) -> None:
        with torch.inference_mode(False), torch.no_grad():  # whatever mode the thread that leads is in
            ids = pad_sequence([one.chunk.hidden_states[0] for one in company], batch_first=True)
            positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            ends = torch.tensor([[len(one) - 1] for one in company], device=ids.device)
            output = self._decoder.run(0, self._decoder.layers, ids, positions, walk.observed(0), ends=ends)
            for row, one in enumerate(company):
                one.output = _row(output, row, len(one))
        for one in company:
            one.bell.set()

    def _settle(self) -> None:
        """Wait for a GPU, so that others come meanwhile, and a turn ends when what was begun in it does."""
        if self._decoder.device.type == "cuda":
            torch.cuda.current_stream(self._decoder.device).synchronize()


class _Seat:
    """A prompt that waits to be read."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.output: LayerOutput | None = None
        self.alone = self.gone = False  # whether company failed; whether nobody waits any more
        self.bell = threading.Event()

    def __len__(self) -> int:
        return len(self.chunk)

    def wait(self) -> None:
        """Until its bell rings, or for a moment. Raises what the caller's tick does."""
        self.bell.wait(_LOOK)
        self.bell.clear()
        pause()


def _row(output: LayerOutput, row: int, length: int) -> LayerOutput:
    """What one prompt would have given alone, as a batch of one that holds no memory of the others."""
    observed = {layer: logits[row : row + 1, :, :length] for layer, logits in output.observed.items()}
    logits = not_none(output.logits)[row : row + 1].clone(memory_format=torch.contiguous_format)
    return LayerOutput(None, logits, output.entries.own_row(row, length), observed)
