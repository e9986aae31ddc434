"""What a learner may read and what it has to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.contract.encode import Events, Ints
from data.queries import SplitLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Lesson:
    """Readable events of a block of users, and which of them are labels.

    Attributes:
        users: user rows, [U].
        events: events of the parts that may be read.
        labels: which of them are to be predicted, [H].
    """

    users: Ints
    events: Events
    labels: Mask

    def engaged(self) -> Events:
        """The events that are labels."""
        return self.events.chosen(self.labels)


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """How often each row was a label, or was there to be read.

    Attributes:
        item_labels: int64[item rows].
        item_events: int64[item rows].
        user_labels: int64[user rows].
        user_events: int64[user rows].
    """

    item_labels: Ints
    item_events: Ints
    user_labels: Ints
    user_events: Ints

    @property
    def item_share(self) -> npt.NDArray[np.float64]:
        """Share of all labels that each item has, [item rows]."""
        return self.item_labels / max(1, int(self.item_labels.sum()))


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """The log as one learner sees it.

    A label is a positive event on an item that its user had not touched before, because that is
    what is asked at evaluation and in serving: seen items are not recommended again. Users who are
    kept apart for evaluation have none.

    Attributes:
        log: the data set and its split.
        parts: parts that may be read and learnt from.
        span_ms: labels lie in [first, last) of these; None without a time split.
        codes: of the actions that are labels; all positive ones if empty.
    """

    log: SplitLog
    parts: tuple[int, ...]
    span_ms: tuple[int, int] | None = None
    codes: tuple[int, ...] = ()

    def lesson(self, table: pa.Table) -> Lesson:
        """Readable events and labels of a TIMELINE block."""
        block = self.log.of(table)
        events = block.keep(np.isin(block.part, self.parts))
        labels = self._labels(events)
        labels[np.repeat(self.log.unseen(block.users), events.lengths)] = False
        return Lesson(block.users, events, labels)

    def _labels(self, events: Events) -> Mask:
        labels = np.isin(events.action, self.codes or self.log.positive_codes)
        labels &= first_touches(events)
        if self.span_ms is not None:
            first, last = self.span_ms
            labels &= (events.timestamp >= first) & (events.timestamp < last)
        return labels

    def lessons(self) -> Iterator[Lesson]:
        """All blocks, in order of file."""
        for table in self.log.dataset.timelines():
            yield self.lesson(table)

    def count(self) -> LabelCounts:
        """Counts labels and readable events in one pass over the timelines."""
        item_rows, user_rows = self.log.dataset.item_ids.rows, self.log.dataset.user_ids.rows
        sizes = (item_rows, item_rows, user_rows, user_rows)
        counts = LabelCounts(*(np.zeros(size, np.int64) for size in sizes))
        for lesson in self.lessons():
            owners = np.repeat(lesson.users, lesson.events.lengths)
            items, labels = lesson.events.item, lesson.labels
            counts.item_labels[:] += np.bincount(items[labels], minlength=item_rows)
            counts.item_events[:] += np.bincount(items, minlength=item_rows)
            counts.user_labels[:] += np.bincount(owners[labels], minlength=user_rows)
            counts.user_events[:] += np.bincount(owners, minlength=user_rows)
        return counts


def first_touches(events: Events) -> Mask:
    """Whether an event is its user's first with that item, [H]."""
    owners = np.repeat(np.arange(len(events.lengths)), events.lengths)
    pairs = (owners << 32) | events.item
    firsts = np.zeros(len(pairs), bool)
    firsts[np.unique(pairs, return_index=True)[1]] = True
    return firsts


def span_of(log: SplitLog, days: tuple[int, int] | None) -> tuple[int, int] | None:
    """Milliseconds of a window of days in a time split; None in the other splits."""
    if log.split.kind != "time" or log.dataset.calendar is None or days is None:
        return None
    calendar = log.dataset.calendar
    return calendar.start_ms(days[0]), calendar.start_ms(days[1] + 1)
