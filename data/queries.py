"""Evaluation queries: what a user had done by then, and what they did next.

A query stands at one moment. Everything of the user before it is the history, which is also what
must not be recommended again; what the user then did positively in the evaluated part, and had not
touched before, are its positives.

- time: the end of the last day before the part. Users without a history stay in, but for those
  who are known to have joined later.
- leave_one_out: just before the held-out event.
- column: the events of earlier parts, whatever their place in the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.contract.encode import Events, ragged_positions
from data.dataset import Dataset
from data.splits import TRAIN, SplitSettings, parts, unseen
from data.timelines import events_from
from data.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Parts = npt.NDArray[np.int8]

QUERY_STREAM = 0x7175


@dataclass(frozen=True, slots=True)
class Queries:
    """Q evaluated users, each at one moment.

    Attributes:
        users: rows of the user id space, [Q].
        history: all that each user did before, oldest first.
        positives: distinct item rows, end to end, [P].
        num_positives: positives of each query, at least 1, [Q].
        now_ms: moment of each query, ms since 1970, [Q]; None for a log without a clock.
    """

    users: Ints
    history: Events
    positives: Ints
    num_positives: Ints
    now_ms: Ints | None

    def __len__(self) -> int:
        return len(self.users)

    @property
    def history_owners(self) -> Ints:
        """Query of each event of the history, [H]."""
        return np.repeat(np.arange(len(self)), self.history.lengths)

    @property
    def positive_owners(self) -> Ints:
        """Query of each positive, [P]."""
        return np.repeat(np.arange(len(self)), self.num_positives)

    def take(self, chosen: Ints) -> Queries:
        """The queries at these positions, in this order."""
        starts = np.cumsum(self.num_positives) - self.num_positives
        lengths = self.num_positives[chosen]
        history = self.history
        return Queries(
            self.users[chosen],
            history.cut(history.offsets[chosen], history.lengths[chosen]),
            self.positives[ragged_positions(starts[chosen], lengths)],
            lengths,
            None if self.now_ms is None else self.now_ms[chosen],
        )

    def chunks(self, size: int) -> Iterator[Queries]:
        """Runs of at most `size` queries, in order."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


@dataclass(frozen=True, slots=True)
class SplitLog:
    """A data set and the rule that says which events are trained, chosen and reported on.

    Attributes:
        dataset: the timelines.
        split: kind of split.
        windows: days of each part (time split).
        seed: of the parts that are drawn.
    """

    dataset: Dataset
    split: SplitSettings
    windows: Windows | None
    seed: int

    def blocks(self) -> Iterator[SplitEvents]:
        """Runs of users with all their events and the part of each."""
        return map(self.of, self.dataset.timelines())

    def of(self, table: pa.Table) -> SplitEvents:
        """The events of a TIMELINE block and the part of each."""
        data = self.dataset
        part = parts(table, self.split, data.vocabulary, self.windows, data.calendar, self.seed)
        users = np.asarray(table["user"].combine_chunks(), np.int64)
        return SplitEvents(users, events_from(table), part)

    def unseen(self, users: Ints) -> Bools:
        """Which user rows are kept apart from all learning."""
        return unseen(users, self.split.eval_users)

    def asked(self, users: Ints) -> Bools:
        """Which user rows are asked about: those kept apart; where none are, all."""
        return self.unseen(users) if self.split.eval_users else np.ones(len(users), bool)

    @property
    def positive_codes(self) -> list[int]:
        """Codes of positive actions."""
        return self.dataset.vocabulary.codes("positive")

    def start_ms(self, part: int) -> int | None:
        """First millisecond of VALID (1) or TEST (2) in a time split; None in other splits."""
        if self.split.kind != "time" or self.windows is None or self.dataset.calendar is None:
            return None
        first_day = (self.windows.valid, self.windows.test)[part - 1][0]
        return self.dataset.calendar.start_ms(first_day)


@dataclass(frozen=True, slots=True)
class SplitEvents:
    """Events of some users and the part that each belongs to.

    Attributes:
        users: [U] rows.
        events: their events.
        part: int8[H] TRAIN, VALID or TEST.
    """

    users: Ints
    events: Events
    part: Parts

    @property
    def owners(self) -> Ints:
        """Index of the user of each event, [H]."""
        return np.repeat(np.arange(len(self.users)), self.events.lengths)

    def known_before(self, part: int, kind: str) -> Bools:
        """Events that a query about `part` may know, [H].

        With an order, what follows a user's first event of the part is left out even when its own
        part is earlier (a hide after the held-out save).
        """
        earlier = (self.part >= TRAIN) & (self.part < part)
        if kind == "column":
            return earlier
        first = np.full(len(self.users), len(self.part))
        at = np.flatnonzero(self.part == part)
        np.minimum.at(first, self.owners[at], at)
        return earlier & (np.arange(len(self.part)) < first[self.owners])

    def keep(self, chosen: Bools) -> Events:
        """The chosen events; users stay, some without events."""
        return self.events.chosen(chosen)


def build_queries(
    log: SplitLog, part: int, max_users: int, codes: Sequence[int] | None = None
) -> Queries:
    """Draws evaluation users and gathers what they knew and what they did.

    Cost: one pass over the timelines; memory holds at most three times the drawn users.

    Args:
        log: the data set under its split.
        part: VALID or TEST; the history is everything of earlier parts.
        max_users: users with at least one positive, drawn by `log.seed`.
        codes: of the actions that make an item a positive; the positive ones by default.

    Returns:
        Queries by ascending user row; none when no user has a positive in the part.
    """
    seeds = np.random.SeedSequence([log.seed, QUERY_STREAM])
    draws = np.random.default_rng(seeds).random(log.dataset.user_ids.rows)
    pending: list[Queries] = []
    limit = np.inf
    for block in log.blocks():
        pending.append(queries_of(block, part, log, codes, draws[block.users] <= limit))
        if sum(map(len, pending)) > 2 * max_users:
            pending = [_first(concatenated(pending), draws, max_users)]
            limit = draws[pending[0].users].max()
    merged = _first(concatenated(pending), draws, max_users)
    return merged.take(np.argsort(merged.users))


def queries_of(
    block: SplitEvents,
    part: int,
    log: SplitLog,
    codes: Sequence[int] | None = None,
    drawn: Bools | None = None,
) -> Queries:
    """The queries of a block of users: one for each (`drawn`) user with a positive in the part."""
    known = block.known_before(part, log.split.kind)
    wanted = (block.part == part) & np.isin(block.events.action, codes or log.positive_codes)
    if drawn is not None:
        wanted &= drawn[block.owners]
    owner, item = _fresh(block, known, wanted)
    counts = np.bincount(owner, minlength=len(block.users))
    moments = _moments(block, known, part, log)
    asked = (counts > 0) & log.asked(block.users)
    if moments is not None:
        asked &= log.dataset.users_created_at[block.users] <= moments
    every = Queries(block.users, block.keep(known), item, counts, moments)
    return every.take(np.flatnonzero(asked))


def _fresh(block: SplitEvents, known: Bools, wanted: Bools) -> tuple[Ints, Ints]:
    """Distinct (user index, item row) of the wanted events that are of no known one."""
    asked = np.bincount(block.owners[wanted], minlength=len(block.users)) > 0
    earlier = known & asked[block.owners]
    pairs = (block.owners << 32) | block.events.item.astype(np.int64)
    fresh = np.setdiff1d(pairs[wanted], pairs[earlier])
    return fresh >> 32, fresh & 0xFFFFFFFF


def _moments(block: SplitEvents, known: Bools, part: int, log: SplitLog) -> Ints | None:
    """Moment of each user's query: the part's start, or else the user's first event in it."""
    if log.dataset.calendar is None:
        return None
    start = log.start_ms(part)
    if start is not None:
        return np.full(len(block.users), start, np.int64)
    moments = np.full(len(block.users), np.iinfo(np.int64).max)
    target = block.part == part
    np.minimum.at(moments, block.owners[target], block.events.timestamp[target])
    newest = np.zeros(len(block.users), np.int64)
    np.maximum.at(newest, block.owners[known], block.events.timestamp[known])
    latest: Ints = np.maximum(moments, newest)
    return latest


def _first(queries: Queries, draws: npt.NDArray[np.float64], count: int) -> Queries:
    """The `count` queries whose users drew the smallest numbers."""
    return queries.take(np.argsort(draws[queries.users], kind="stable")[:count])


def concatenated(groups: Sequence[Queries]) -> Queries:
    """The queries of all groups, in order."""
    return Queries(
        _joined([q.users for q in groups]),
        Events.join([q.history for q in groups]),
        _joined([q.positives for q in groups]),
        _joined([q.num_positives for q in groups]),
        _joined_moments([q.now_ms for q in groups]),
    )


def _joined(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def _joined_moments(moments: Sequence[Ints | None]) -> Ints | None:
    known = [m for m in moments if m is not None]
    return _joined(known) if known or not moments else None
