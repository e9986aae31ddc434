"""Block plans and their execution by Ray Data: every row of an epoch exactly once.

An epoch is a seeded permutation of blocks (row groups). Ranks take every n-th block of what is
left of it; Ray Data reads them in that order; a thread cuts them into batches ahead of the loop.
What has been consumed is named by (epoch, block, batches), which means the same for any number
of ranks, so a run resumes with another number than it stopped with.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from data.blocks import Block, Stage, StagedBlock
from models.batch import Batch
from ray_jobs.engine.block_reader import Readable, read_tables

WHOLE = -1


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """Which blocks an epoch reads, in which order, and what becomes of them on the way.

    Attributes:
        blocks: all of an epoch.
        seed: of the order and of what is drawn.
        stage: what Ray Data's tasks make of a block before it is cut into batches.
    """

    blocks: tuple[Block, ...]
    seed: int
    stage: Stage | None = None

    def order(self, epoch: int) -> list[int]:
        """Block numbers of an epoch in reading order."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
        return [int(i) for i in rng.permutation(len(self.blocks))]

    def reading(self, epoch: int, block: int) -> Readable:
        """What is read of a block in an epoch."""
        found = self.blocks[block]
        if self.stage is None:
            return found
        return StagedBlock(found, self.stage, epoch, (self.seed, epoch, block, 2))

    def rng(self, epoch: int, block: int) -> np.random.Generator:
        """The random stream of one block in one epoch, whoever reads it."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, epoch, block, 1]))


@dataclass(slots=True)
class Progress:
    """What of the current epoch has been consumed, by all ranks together.

    Attributes:
        epoch: current epoch.
        batches: block number -> batches consumed, or WHOLE.
    """

    epoch: int = 0
    batches: dict[int, int] = field(default_factory=dict)

    def absorb(self, other: Progress) -> None:
        """Adds what another rank has consumed: of each block, whatever is further."""
        for block, count in other.batches.items():
            if WHOLE in (count, self.batches.get(block)):
                self.batches[block] = WHOLE
            else:
                self.batches[block] = max(count, self.batches.get(block, 0))

    def next_epoch(self) -> None:
        """Starts the next epoch with nothing consumed."""
        self.epoch, self.batches = self.epoch + 1, {}

    def to_tree(self) -> dict[str, Any]:
        """As JSON."""
        return {"epoch": self.epoch, "batches": {str(k): v for k, v in self.batches.items()}}

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Progress:
        """From JSON."""
        return cls(tree["epoch"], {int(k): v for k, v in tree["batches"].items()})


@dataclass(frozen=True, slots=True)
class Ticket:
    """One block to read: in which epoch, and how many of its batches are consumed already."""

    epoch: int
    block: int
    skip: int = 0


def tickets(
    plan: BlockPlan, done: Progress, max_epochs: int, rank: int, world_size: int
) -> Iterator[Ticket]:
    """What one rank has still to read until the end of `max_epochs`.

    Given one by one: memory is one epoch's order. `done` may change as soon as this returns.
    """
    return _tickets(plan, range(done.epoch, max_epochs), dict(done.batches), rank, world_size)


def _tickets(
    plan: BlockPlan, epochs: range, consumed: dict[int, int], rank: int, world_size: int
) -> Iterator[Ticket]:
    """Tickets of the epochs, of the first of which batches have been consumed."""
    for epoch in epochs:
        left = (
            Ticket(epoch, block, consumed.get(block, 0))
            for block in plan.order(epoch)
            if consumed.get(block) != WHOLE
        )
        yield from itertools.islice(left, rank, None, world_size)
        consumed = {}


@dataclass(frozen=True, slots=True)
class Portion:
    """A batch and what consuming it means for the progress."""

    ticket: Ticket
    batch: Batch
    consumed: int


Collate = Callable[[pa.Table, np.random.Generator], Iterator[Batch]]
Reader = Callable[[Iterable[Readable]], Iterator[pa.Table]]


def portions(
    plan: BlockPlan, todo: Iterable[Ticket], collate: Collate, read: Reader = read_tables
) -> Iterator[Portion]:
    """Batches of the tickets in order; memory is what `read` holds, however many tickets there are.

    A block without a row to train on gives none, and is read again by a run that resumes its epoch.
    """
    todo, ahead = itertools.tee(todo)
    tables = read(plan.reading(ticket.epoch, ticket.block) for ticket in ahead)
    for ticket, table in zip(todo, tables, strict=True):
        batches = collate(table, plan.rng(ticket.epoch, ticket.block))
        numbered = itertools.islice(_last_marked(batches), ticket.skip, None)
        for batch, consumed in numbered:
            yield Portion(ticket, batch, consumed)


def _last_marked(batches: Iterator[Batch]) -> Iterator[tuple[Batch, int]]:
    """Numbers batches from 1; the last of a block is marked WHOLE."""
    ahead = next(batches, None)
    for number in itertools.count(1):
        if ahead is None:
            return
        batch, ahead = ahead, next(batches, None)
        yield batch, WHOLE if ahead is None else number


def spare_batch(plan: BlockPlan, collate: Collate, read: Reader = read_tables) -> Batch:
    """A batch of weight 0, cut from the plan's first rows: for ranks that have run out.

    Raises:
        ValueError: no block of the plan has a row to train on.
    """
    firsts = (plan.reading(0, block) for block in range(len(plan.blocks)))
    for table in itertools.chain.from_iterable(read([block]) for block in firsts):
        for batch in collate(table, plan.rng(0, 0)):
            return batch.muted()
    raise ValueError("no block has a row to train on")


class Prefetched:
    """Runs an iterator in a thread, a few items ahead of the consumer."""

    def __init__(
        self, items: Iterator[Portion], make_spare: Callable[[], Batch], depth: int = 4
    ) -> None:
        """Starts the thread; it holds at most `depth` items.

        Args:
            items: what to take.
            make_spare: gives a batch of weight 0 when this rank has none of its own yet.
            depth: items held.
        """
        self.spare = make_spare
        self._queue: queue.Queue[Portion | BaseException | None] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(items,), daemon=True)
        self._thread.start()
        self._ahead: Portion | None = None
        self._finished = False

    def _fill(self, items: Iterator[Portion]) -> None:
        try:
            for item in items:
                if not self._put(item):
                    return
            self._put(None)
        except BaseException as error:  # the consumer raises it in its own thread
            self._put(error)

    def _put(self, item: Portion | BaseException | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def peek(self) -> Portion | None:
        """The next item without taking it, or None at the end."""
        if self._ahead is None and not self._finished:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            self._ahead, self._finished = item, item is None
        return self._ahead

    def take(self, epoch: int) -> Portion | None:
        """The next item if it belongs to `epoch`, else None (the rank has finished the epoch)."""
        item = self.peek()
        if item is None or item.ticket.epoch != epoch:
            return None
        self._ahead = None
        return item

    def close(self) -> None:
        """Stops the thread."""
        self._stopped.set()
        self._thread.join(timeout=5)
