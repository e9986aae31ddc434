"""Putting a log's vocabulary, calendar and id spaces together, new or as an extension."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data.admission import admit, merge_counts, no_counts
from data.contract.idspace import IdSpace
from data.contract.schema import (
    DAY_MS,
    DEFAULT_SURFACE,
    NEGATIVE_ACTIONS,
    Calendar,
    Polarity,
    Vocabulary,
)
from data.contract.settings import UserError
from data.exchange import read_table, write_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from data.attributes import Attributes
    from data.contract.idspace_settings import IdSettings

PENDING = "pending.arrow"
MOST_NAMES = 1000
MAX_GAP_DAYS = 90
STRAY_SHARE = 0.001


def vocabulary(
    raw_order: str,
    actions: Iterable[str],
    surfaces: Iterable[str | None],
    polarity: Mapping[str, Polarity],
) -> Vocabulary:
    """Names in alphabetical order, so that codes do not depend on the order of rows.

    Raises:
        UserError: hundreds of different names, a polarity of an action that is not there, or no
            positive action.
    """
    names = tuple(sorted(set(actions)))
    places = tuple(sorted({name for name in surfaces if name})) or (DEFAULT_SURFACE,)
    for column, values in (("action", names), ("surface", places)):
        if len(values) > MOST_NAMES:
            raise UserError(
                f"column {column} has {len(values)} different values, such as {values[0]}; "
                f"map another one with source.columns.{column}=<column>"
            )
    for action in polarity:
        if action not in names:
            known = ", ".join(names)
            raise UserError(f"source.polarity.{action}: the log has no such action; it has {known}")
    signs = tuple(polarity.get(name, _polarity(name)) for name in names)
    if "positive" not in signs:
        raise UserError(
            f"no action of the log is positive ({', '.join(names)}), so there is nothing to learn; "
            "set source.polarity.<action>=positive"
        )
    return Vocabulary(order=raw_order, actions=names, polarity=signs, surfaces=places)  # type: ignore[arg-type]


def _polarity(action: str) -> Polarity:
    return "negative" if action.lower() in NEGATIVE_ACTIONS else "positive"


def calendar(days: Mapping[int, int], known: Calendar | None) -> Calendar:
    """The days of a log.

    Before or after a gap of more than MAX_GAP_DAYS, up to STRAY_SHARE of a first log's events are
    of wrong clocks and make no days, which windows would be scaled to; those before are rejected.
    A known calendar is only ever made longer, and not across such a gap: rows dated far after the
    log (a wall clock beside a simulated one) join the timelines, but do not take the time windows
    away from the data.

    Args:
        days: events by day since 1970.
        known: the calendar of the log that is extended.
    """
    found = sorted(days)
    if known is None:
        first, last = _span(days)
        length = last - first + 1
        return Calendar(first_day_ms=first * DAY_MS, num_days=length, base_days=length)
    last = known.num_days
    for day in (number - known.first_day_ms // DAY_MS + 1 for number in found):
        if last < day <= last + MAX_GAP_DAYS:
            last = day
    return replace(known, num_days=last)


def _span(days: Mapping[int, int]) -> tuple[int, int]:
    """First and last day, strays left out."""
    found = np.array(sorted(days))
    count = np.cumsum([days[day] for day in found.tolist()])
    few = STRAY_SHARE * count[-1]
    ends = np.flatnonzero(np.diff(found) > MAX_GAP_DAYS)
    early, late = ends[count[ends] <= few], ends[count[-1] - count[ends] <= few]
    first = found[early[-1] + 1] if len(early) else found[0]
    return int(first), int(found[late[0]] if len(late) else found[-1])


def group_starts(events_by_day: Mapping[int, int], size: int) -> tuple[int, ...]:
    """First days of groups of consecutive days with about `size` events each."""
    starts, waiting = [], size
    for day in sorted(events_by_day):
        if waiting >= size:
            starts.append(day)
            waiting = 0
        waiting += events_by_day[day]
    return tuple(starts) or (1,)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An id space after a log, and the ids that wait for more events."""

    space: IdSpace
    pending: pa.Table

    @classmethod
    def empty(cls, name: str, kind: pa.DataType, settings: IdSettings) -> Enrolled:
        """Before the first log."""
        return cls(IdSpace.empty(name, kind, settings.buckets), no_counts(kind))

    @classmethod
    def open(cls, folder: Path) -> Enrolled:
        """What `save` wrote."""
        return cls(IdSpace.open(folder), read_table(folder / PENDING))

    def save(self, folder: Path) -> None:
        """Writes the id space and the waiting ids."""
        self.space.save(folder)
        write_table(self.pending, folder / PENDING)

    def after(self, counts: pa.Table, attributes: Attributes, min_count: int) -> Enrolled:
        """Admits the ids of a log and of an attribute table."""
        kind = self.space.ids.type
        joined = merge_counts([self.pending, counts], kind)
        return Enrolled(
            *admit(self.space, joined, (attributes.ids, attributes.created_at), min_count)
        )
