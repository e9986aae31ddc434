"""Every event of a log, and all that was shown, as touches of items by users, block by block."""

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

AT_ONCE = 1 << 22  # touches
LAST_DAY = np.iinfo(np.int16).max
SHOWN_COLUMNS = ["user", "item", "timestamp"]


@dataclass(frozen=True, slots=True)
class Touches:
    """What happened to items, H times; 11 bytes each.

    Attributes:
        user: user rows, [H].
        item: item rows, [H].
        kind: code of the action - 1, or the number of actions where the item was shown, [H].
        day: 1-based, at most LAST_DAY, [H]; 0 without a clock.
    """

    user: Rows
    item: Rows
    kind: Kinds
    day: Days

    @classmethod
    def blocks(cls, log: SplitLog, parts: Sequence[int]) -> Iterator[Touches]:
        """The events of some parts and, under a time split, all that was shown, block by block."""
        yield from _events(log, parts)
        if log.split.kind == "time":
            yield from _shown(log)

    def chosen(self, there: Bools) -> Touches:
        """Some of them, [H]."""
        return Touches(self.user[there], self.item[there], self.kind[there], self.day[there])


def _narrow(user: Ints, item: Ints, kind: Ints, day: Ints) -> Touches:
    """A block in as few bytes as it takes, before the next one is read."""
    days = np.clip(day, 0, LAST_DAY).astype(np.int16)
    return Touches(user.astype(np.int32), item.astype(np.int32), kind.astype(np.uint8), days)


def _events(log: SplitLog, parts: Sequence[int]) -> Iterator[Touches]:
    calendar = log.dataset.calendar
    for block in log.blocks():
        chosen = np.isin(block.part, parts)
        events, users = block.events, block.users[block.owners[chosen]]
        times = events.timestamp[chosen]
        day = np.zeros(len(times), np.int64) if calendar is None else days_of(calendar, times)
        yield _narrow(users, events.item[chosen], events.action[chosen] - 1, day)


def _shown(log: SplitLog) -> Iterator[Touches]:
    calendar, kind = log.dataset.calendar, len(log.dataset.vocabulary.actions)
    if calendar is None or not log.dataset.counts["impressions"]:
        return
    for file in log.dataset.impression_files(1, calendar.num_days):
        for table in pq.ParquetFile(file).iter_batches(AT_ONCE, columns=SHOWN_COLUMNS):
            user, item, time = (table[name].to_numpy() for name in SHOWN_COLUMNS)
            yield _narrow(user, item, np.full(len(item), kind), days_of(calendar, time))
