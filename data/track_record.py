"""How items and users had done before a moment, as a ranker reads it.

Trends say what was liked lately (data.trends). Tallies say how often each action had happened, and
to how many that were shown: to the item, to all items that share a value of a categorical column
with it (its creator's, say), to the user, and in all. A click-through rate is two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.contract.encode import Ints, Mask
from data.contract.schema import Calendar
from data.key_days import DayMarks, KeyDays
from data.queries import SplitLog
from data.tallies import (
    EVERYBODY,
    Count,
    DayCounts,
    DayTallies,
    Floats,
    FoldTallies,
    LastTallies,
    Tallies,
    fold_of,
)
from data.touches import Touches
from data.trends import Trends, days_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from data.contract.encode import Arrays
    from data.dataset import Dataset
    from data.key_days import Keys
    from data.requests import Requests


@dataclass(frozen=True, slots=True)
class Standings:
    """Counts of each action, and of being shown, before any moment.

    Attributes:
        keys: G ways to key items, by name: all as one, each alone, by each categorical column;
            [rows] each.
        of_keys: counts by each of them.
        of_user: counts by user row; None without a clock, where a user's fold is all there is.
        items: how many there are.
        users: how many there are.
        calendar: of the log, None without a clock.
    """

    keys: Mapping[str, Ints]
    of_keys: tuple[Tallies, ...]
    of_user: Tallies | None
    items: int
    users: int
    calendar: Calendar | None

    @classmethod
    def of(
        cls,
        log: SplitLog,
        parts: Sequence[int],
        half_life_days: float,
        asked: Mask | None = None,
    ) -> Standings:
        """Counts some parts of a log, as of any moment; with a clock in two passes.

        Memory is that of the counts and of a block of the log, however many touches there are.

        Args:
            log: events and, under a time split, what was shown.
            parts: whose events are counted.
            half_life_days: age at which a touch counts half, in a log with a clock.
            asked: users whose counts will be asked for, [rows]; by default all. Those of each take
                a line of memory a day on which they did anything.
        """
        if log.dataset.calendar is None:
            return cls._by_fold(log, parts)
        counting = _Counting.of(log, parts, asked)
        marks = counting.counted([DayMarks.empty(size) for size in counting.sizes])
        empty = [DayCounts.empty(KeyDays.of(mark), counting.width) for mark in marks]
        counts = counting.counted(empty)
        return cls._of(counting, [DayTallies.of(count, half_life_days) for count in counts])

    @classmethod
    def at_last(cls, log: SplitLog, parts: Sequence[int], half_life_days: float) -> Standings:
        """The same as of `last_moment` alone, in one pass; memory is a line a key."""
        if log.dataset.calendar is None:
            return cls._by_fold(log, parts)
        counting, moment = _Counting.of(log, parts), log.dataset.calendar.num_days + 1
        width, sizes = counting.width, counting.sizes
        empty = [LastTallies.empty(size, width, moment, half_life_days) for size in sizes]
        return cls._of(counting, counting.counted(empty))

    @classmethod
    def _by_fold(cls, log: SplitLog, parts: Sequence[int]) -> Standings:
        counting = _Counting.of(log, parts)
        empty = [FoldTallies.empty(size, counting.width) for size in counting.sizes]
        return cls._of(counting, counting.counted(empty))

    @classmethod
    def _of(cls, counting: _Counting, counts: Sequence[Tallies]) -> Standings:
        data, of_keys = counting.log.dataset, len(counting.keys)
        return cls(
            counting.keys,
            tuple(counts[:of_keys]),
            None if data.calendar is None else counts[of_keys],
            data.item_ids.rows - data.item_ids.first_row,
            data.user_ids.rows,
            data.calendar,
        )

    def moments(self, users: Ints, times_ms: Ints) -> Ints:
        """What tells apart the counts of requests: the day, or the user's fold. [R]."""
        return fold_of(users) if self.calendar is None else days_of(self.calendar, times_ms)

    @property
    def last_moment(self) -> int:
        """As of which all is counted: the day after the log, or nobody left out."""
        return EVERYBODY if self.calendar is None else self.calendar.num_days + 1

    def of_items(self, moments: Ints, items: Ints) -> Floats:
        """Counts of items, and of those that share a value with them: float32[N, G, W].

        The first group is all, an item on average: what is read beside it does not grow with the
        log.
        """
        found = [
            tallies.before(moments, keys[items])
            for tallies, keys in zip(self.of_keys, self.keys.values(), strict=True)
        ]
        found[0] = found[0] / np.float32(self.items)
        return np.stack(found, axis=1)

    def of_users(self, moments: Ints, users: Ints) -> Floats | None:
        """Counts of a user on average, and of each: float32[R, 2, W]; with a clock only."""
        if self.of_user is None:
            return None
        everybody = self.of_keys[0].before(moments, np.zeros_like(users))
        everybody = everybody / np.float32(self.users)
        return np.stack([everybody, self.of_user.before(moments, users)], axis=1)


@dataclass(frozen=True, slots=True)
class _Counting:
    """Which touches are counted by which keys: items by each way to key them; with a clock, users.

    Attributes:
        log: holds the touches.
        parts: whose events are counted.
        asked: users who are counted, [rows]; all if None.
        keys: `Standings.keys`.
    """

    log: SplitLog
    parts: Sequence[int]
    asked: Mask | None
    keys: Mapping[str, Ints]

    @classmethod
    def of(cls, log: SplitLog, parts: Sequence[int], asked: Mask | None = None) -> _Counting:
        return cls(log, parts, asked, _keys(log.dataset))

    @property
    def width(self) -> int:
        """Kinds of touches."""
        return len(self.log.dataset.vocabulary.actions) + 1

    @property
    def sizes(self) -> list[int]:
        """How many keys there are of each way to key touches, in the order of `counted`."""
        sizes = [int(key.max(initial=0)) + 1 for key in self.keys.values()]
        data = self.log.dataset
        return sizes if data.calendar is None else [*sizes, data.user_ids.rows]

    def counted(self, counts: list[Count]) -> list[Count]:
        """Adds all touches to what counts them by each way, in one pass over the log."""
        for touches in Touches.blocks(self.log, self.parts):
            for count, (some, keys) in zip(counts, self._keyed(touches), strict=True):
                count.add(some, keys)
        return counts

    def _keyed(self, touches: Touches) -> Iterator[tuple[Touches, Keys]]:
        for key in self.keys.values():
            yield touches, key[touches.item]
        if self.log.dataset.calendar is not None:
            own = touches if self.asked is None else touches.chosen(self.asked[touches.user])
            yield own, own.user


def _keys(data: Dataset) -> dict[str, Ints]:
    rows = np.arange(data.item_ids.rows)
    names = [feature.name for feature in data.items.features if feature.kind == "categorical"]
    values = data.items.only(names).gather(rows)
    codes = {name: np.unique(values[f"item.{name}"], return_inverse=True)[1] for name in names}
    return {"all": np.zeros_like(rows), "item": rows} | codes


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """What a ranker may know of how items and users had done.

    Attributes:
        trends: of items, in a log with a clock.
        standings: of items and, in a log with a clock, users; None where none are read.
    """

    trends: Trends | None = None
    standings: Standings | None = None

    def arrays(self, requests: Requests) -> Arrays:
        """Named arrays of R requests with N candidates.

        Returns:
            `candidate.trend.counts` and `candidate.trend.age_ms` (`encode_trends`),
            `candidate.tally.counts` float32[N, G, W], `user_tally.counts` float32[R, 2, W]; those
            that there are.
        """
        counts = np.diff(requests.offsets)
        found: Arrays = {}
        if self.trends is not None:
            day = np.repeat(days_of(self.trends.calendar, requests.timestamp), counts)
            trends = self.trends.before(day, requests.item)
            found |= {f"candidate.{name}": array for name, array in trends.items()}
        if self.standings is not None:
            moments = self.standings.moments(requests.user, requests.timestamp)
            of_items = self.standings.of_items(np.repeat(moments, counts), requests.item)
            found["candidate.tally.counts"] = of_items
            of_users = self.standings.of_users(moments, requests.user)
            found |= {} if of_users is None else {"user_tally.counts": of_users}
        return found
