"""The positives of the reported part one by one, each asked for from a vector of some age.

Of the same positives, what is known of a user is what was done before the part (`once`), before
the midnight before the positive (`daily`), or before the positive itself (`realtime`): the loss
from one to the next is what refreshing more often would bring (PinnerFormer, KDD'22, table 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from data.contract.schema import DAY_MS
from data.queries import Queries, concatenated
from data.splits import TEST
from data.training_log import first_touches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.contract.encode import Ints
    from data.contract.schema import Calendar
    from data.queries import SplitEvents, SplitLog

Cadence = Literal["once", "daily", "realtime"]
CADENCES: tuple[Cadence, ...] = ("once", "daily", "realtime")


def one_by_one(log: SplitLog, users: Ints, cadence: Cadence, codes: Sequence[int]) -> Queries:
    """A query for each first touch of an item in the reported part that is one of some actions.

    All cadences ask for the same items of the same users; they differ in how much of the history
    is known. Cost: one pass over the timelines; memory grows with the positives of `users` times
    their events.

    Args:
        log: a data set under a split by time.
        users: rows, ascending.
        cadence: how fresh the vector is.
        codes: of the actions that are asked for.
    """
    calendar = log.dataset.calendar
    assert calendar is not None
    return concatenated(
        [_asked(block, log, calendar, users, cadence, codes) for block in log.blocks()]
    )


def _asked(
    block: SplitEvents,
    log: SplitLog,
    calendar: Calendar,
    users: Ints,
    cadence: Cadence,
    codes: Sequence[int],
) -> Queries:
    events = block.events
    wanted = (block.part == TEST) & np.isin(events.action, codes) & first_touches(events)
    at = np.flatnonzero(wanted & np.isin(block.users, users)[block.owners])
    owner, moment = block.owners[at], events.timestamp[at]
    if cadence == "once":
        known_until = np.full(len(at), log.start_ms(TEST))
    elif cadence == "daily":
        known_until = moment - (moment - calendar.first_day_ms) % DAY_MS
    else:
        known_until = moment
    starts = events.offsets[owner]
    # Events of the very millisecond of a positive may stand before it.
    known = np.minimum(events.positions_before(owner, known_until), at) - starts
    items, ones = events.item[at].astype(np.int64), np.ones(len(at), np.int64)
    # An item may be younger than the vector: it is ranked, as a daily index would have it.
    return Queries(block.users[owner], events.cut(starts, known), items, ones, moment)
