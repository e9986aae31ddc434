"""What a data set holds of some users, for tests to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data.contract.encode import HISTORY_COLUMNS, Events
from data.timelines import events_from

if TYPE_CHECKING:
    from data.contract.encode import Ints
    from data.dataset import Dataset


def events_of(dataset: Dataset, users: Ints) -> Events:
    """The events of any user rows [B]; none for rows without a timeline. One pass over the log."""
    blocks = (block.read(["user", *HISTORY_COLUMNS]) for block in dataset.blocks)
    asked = ((b, np.isin(b["user"].to_numpy(), users)) for b in blocks)
    found = pa.concat_tables(b.filter(pa.array(there)) for b, there in asked)
    rows, events = found["user"].to_numpy(), events_from(found)
    order = np.argsort(rows)
    at = np.searchsorted(rows, users, sorter=order)
    known = np.flatnonzero(at < len(rows))
    at = order[at[known]]
    known, at = known[rows[at] == users[known]], at[rows[at] == users[known]]
    starts, lengths = np.zeros((2, len(users)), np.int64)
    starts[known], lengths[known] = events.offsets[at], events.lengths[at]
    return events.cut(starts, lengths)
