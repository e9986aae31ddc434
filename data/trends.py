"""What was liked lately: positive events of each item in the days before a moment, and its age.

The same counts are read in training (as of the day of each label), in evaluation (as of the day of
each query) and when a bundle is indexed (as of the end of the log): whole days before the moment,
never the day itself, so that no label counts itself. They are counted by item, as labels are, and
not by image (data.contract.signatures): copies have labels of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.contract.encode import Arrays, Ints, encode_trends
from data.contract.schema import DAY_MS, TREND_DAYS, Calendar
from data.item_days import item_days

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.dataset import Dataset
    from data.queries import SplitLog

Counts = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Trends:
    """Running totals of positive events by day; memory grows as days x items.

    Attributes:
        totals: int32[days + 1, rows]; line d holds the events of the first d days.
        created_at: int64[rows] ms since 1970, 0 where unknown.
        calendar: of the log.
    """

    totals: Counts
    created_at: Ints
    calendar: Calendar

    @classmethod
    def of(cls, log: SplitLog, parts: Sequence[int]) -> Trends | None:
        """Counts the events of some parts of a log, in one pass; None without a clock."""
        dataset = log.dataset
        if dataset.calendar is None:
            return None
        totals = _zeros(dataset, dataset.calendar)
        for block in log.blocks():
            counted = np.isin(block.part, parts) & np.isin(block.events.action, log.positive_codes)
            day = days_of(dataset.calendar, block.events.timestamp[counted])
            _add(totals, day, block.events.item[counted])
        return cls(_cumulated(totals), dataset.items_created_at, dataset.calendar)

    @classmethod
    def of_all(cls, dataset: Dataset) -> Trends | None:
        """Counts every event of a data set, from its counts by day; None without a clock."""
        if dataset.calendar is None:
            return None
        totals = _zeros(dataset, dataset.calendar)
        for part in item_days(dataset.artifact.path, dataset.vocabulary.codes("positive")):
            _add(totals, part.day, part.item, part.count)
        return cls(_cumulated(totals), dataset.items_created_at, dataset.calendar)

    def before(self, day: Ints, rows: Ints) -> Arrays:
        """Named arrays of items as of the start of days; the two shapes are broadcast.

        Args:
            day: 1-based days.
            rows: item rows.

        Returns:
            `trend.counts` int64[..., len(TREND_DAYS)], `trend.age_ms` int64[...].
        """
        day, rows = np.broadcast_arrays(day, rows)
        last = len(self.totals) - 1
        ends = self.totals[np.clip(day - 1, 0, last), rows]
        starts = [self.totals[np.clip(day - 1 - span, 0, last), rows] for span in TREND_DAYS]
        now_ms = self.calendar.first_day_ms + (day - 1) * DAY_MS
        return encode_trends(
            np.stack([ends - start for start in starts], axis=-1), self.created_at[rows], now_ms
        )


def days_of(calendar: Calendar, timestamp: Ints) -> Ints:
    """1-based days of moments, int64 like them."""
    days: Ints = (timestamp - calendar.first_day_ms) // DAY_MS + 1
    return days


def _zeros(dataset: Dataset, calendar: Calendar) -> Counts:
    return np.zeros((calendar.num_days + 1, dataset.item_ids.rows), np.int32)


def _add(totals: Counts, day: Ints, item: Ints, count: Ints | int = 1) -> None:
    """Adds events to the lines of their days; days outside the calendar count as its nearest."""
    np.add.at(totals, (np.clip(day, 1, len(totals) - 1), item), count)


def _cumulated(totals: Counts) -> Counts:
    """Totals of each day and those before, in the place of the totals of each day."""
    return np.cumsum(totals, axis=0, out=totals)
