"""Every event of a log, and all that was shown, as one list of touches of items by users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from data.trends import days_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from data.contract.encode import Ints
    from data.queries import SplitLog

Rows = npt.NDArray[np.int32]
Kinds = npt.NDArray[np.uint8]
Days = npt.NDArray[np.int16]
Bools = npt.NDArray[np.bool_]
Columns = tuple[Rows, Rows, Kinds, Days]

AT_ONCE = 1 << 22  # touches
SHOWN_COLUMNS = ["user", "item", "timestamp"]


@dataclass(frozen=True, slots=True)
class Touches:
    """What happened to items, H times; 11 bytes each.

    Attributes:
        user: user rows, [H].
        item: item rows, [H].
        kind: code of the action - 1, or the number of actions where the item was shown, [H].
        day: 1-based, [H]; 0 without a clock.
    """

    user: Rows
    item: Rows
    kind: Kinds
    day: Days

    @classmethod
    def of(cls, log: SplitLog, parts: Sequence[int]) -> Touches:
        """The events of some parts and, under a time split, all that was shown.

        Columns are joined one after the other, the blocks of each then let go: 15 bytes a touch.
        """
        columns = [*zip(*_blocks(log, parts), strict=True)]
        user, item, kind, day = (np.concatenate(columns.pop(0)) for _ in range(len(columns)))
        return cls(user, item, kind, day)

    @classmethod
    def blocks(cls, log: SplitLog, parts: Sequence[int]) -> Iterator[Touches]:
        """The same, a block at a time."""
        return (cls(*columns) for columns in _blocks(log, parts))

    def chosen(self, there: Bools) -> Touches:
        """Some of them, [H]."""
        return Touches(self.user[there], self.item[there], self.kind[there], self.day[there])


def _blocks(log: SplitLog, parts: Sequence[int]) -> Iterator[Columns]:
    yield from _events(log, parts)
    if log.split.kind == "time":
        yield from _shown(log)


def _narrow(user: Ints, item: Ints, kind: Ints, day: Ints) -> Columns:
    """A block in as few bytes as it takes, before the next one is read."""
    days = np.maximum(day, 0).astype(np.int16)
    return user.astype(np.int32), item.astype(np.int32), kind.astype(np.uint8), days


def _events(log: SplitLog, parts: Sequence[int]) -> Iterator[Columns]:
    calendar = log.dataset.calendar
    for block in log.blocks():
        chosen = np.isin(block.part, parts)
        events, users = block.events, block.users[block.owners[chosen]]
        times = events.timestamp[chosen]
        day = np.zeros(len(times), np.int64) if calendar is None else days_of(calendar, times)
        yield _narrow(users, events.item[chosen], events.action[chosen] - 1, day)


def _shown(log: SplitLog) -> Iterator[Columns]:
    calendar, kind = log.dataset.calendar, len(log.dataset.vocabulary.actions)
    if calendar is None or not log.dataset.counts["impressions"]:
        return
    for file in log.dataset.impression_files(1, calendar.num_days):
        for table in pq.ParquetFile(file).iter_batches(AT_ONCE, columns=SHOWN_COLUMNS):
            user, item, time = (table[name].to_numpy() for name in SHOWN_COLUMNS)
            yield _narrow(user, item, np.full(len(item), kind), days_of(calendar, time))
