"""What the ranks take their steps on: a batch each, in step, as long as one of them has rows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ray_jobs.engine import ranks
from ray_jobs.engine.streams import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from models.batch import Batch
    from ray_jobs.engine.meter import Meter
    from ray_jobs.engine.streams import Portion, Prefetched, Progress


@dataclass(frozen=True, slots=True)
class Taken:
    """What a step on a batch means for the progress.

    Attributes:
        epoch: of all ranks.
        ticket: of this rank's batch; None where it has run out.
        consumed: batches of the ticket's block.
        rows: to train on, in the batches of all ranks.
    """

    epoch: int
    ticket: Ticket | None
    consumed: int
    rows: int

    def count(self, progress: Progress) -> None:
        """Adds the step to what has been consumed."""
        while progress.epoch < self.epoch:
            progress.next_epoch()
        if self.ticket:
            progress.batches[self.ticket.block] = self.consumed


class Feed:
    """Batches of this rank, taken ahead of the steps on them; every rank takes as many.

    Attributes:
        taken: what was given and not yet trained on, the oldest first.
        ended: whether no rank has another batch, nor the training another epoch.
    """

    def __init__(
        self,
        stream: Prefetched,
        epochs: range,
        ready: Callable[[Batch], Batch],
        meter: Meter,
    ) -> None:
        """Starts in the first of the epochs; `ready` is called with each batch by every rank."""
        self.taken: deque[Taken] = deque()
        self.ended = not epochs
        self._stream, self._epochs, self._ready, self._meter = stream, epochs, ready, meter
        self._epoch = epochs.start
        self._last: Batch | None = None

    def next(self, count: int) -> Iterator[Batch]:
        """The next batches, fewer at the end."""
        while count and not self.ended:
            portion = self._meter.waiting(lambda: self._stream.take(self._epoch))
            busy, rows = _offered(portion)
            if not busy:
                self._epoch += 1
                self.ended = self._epoch not in self._epochs
                continue
            count -= 1
            self.taken.append(_taken(self._epoch, portion, rows))
            yield self._ready(self._batch(portion))

    def _batch(self, portion: Portion | None) -> Batch:
        """The rank's own; without one, one of weight 0, which keeps collectives in step."""
        if portion:
            self._last = portion.batch
            return portion.batch
        self._last = self._last or self._stream.spare()
        return self._last.muted()


def _taken(epoch: int, portion: Portion | None, rows: int) -> Taken:
    if portion is None:
        return Taken(epoch, None, 0, rows)
    return Taken(epoch, portion.ticket, portion.consumed, rows)


def _offered(portion: Portion | None) -> tuple[int, int]:
    """Ranks that still have a batch of this epoch, and the rows in their batches."""
    rows = int((portion.batch.weight > 0).sum()) if portion else 0
    busy, total = ranks.summed(torch.tensor([int(portion is not None), rows])).tolist()
    return busy, total
