"""Timelines: one row a user, events oldest first, as Arrow lists (`schema.TIMELINE`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.contract.encode import HISTORY_COLUMNS, Events
from data.contract.schema import TIMELINE

if TYPE_CHECKING:
    from pathlib import Path

ROW_GROUP_USERS = 512
# Without dictionaries: rows and times hardly repeat within 512 users, and reading is faster.
PARQUET_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": False,
}
EVENT_FIELDS = tuple(name for name in TIMELINE.names if name != "user")


def events_from(table: pa.Table) -> Events:
    """The events of a block of timelines, laid end to end; no copy when the block is one chunk.

    Args:
        table: columns item, action, surface, timestamp and duration_s of `schema.TIMELINE`, B rows.
    """
    columns = {name: flat(table, name) for name in HISTORY_COLUMNS}
    columns["duration_s"] = np.nan_to_num(columns["duration_s"].astype(np.float32))
    return Events(offsets_of(table), **columns)


def offsets_of(table: pa.Table) -> npt.NDArray[np.int64]:
    """Where each user's events begin among the flattened ones. int64[B + 1]."""
    offsets = np.asarray(_lists(table, "item").offsets).astype(np.int64)
    return offsets - offsets[0] if len(offsets) else np.zeros(1, np.int64)


def flat(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """One list column, flattened."""
    values: npt.NDArray[Any] = np.asarray(_lists(table, name).flatten())
    return values


def _lists(table: pa.Table, name: str) -> pa.ListArray:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def group(events: pa.Table) -> pa.Table:
    """Groups encoded events into timelines.

    Args:
        events: `user`, the fields of a timeline and `sequence`, N rows in order of arrival; a
            user's events are ordered by timestamp, sequence and arrival.

    Returns:
        `schema.TIMELINE`, users ascending. O(N log N).
    """
    user = events["user"].to_numpy()
    order = np.lexsort((events["sequence"].to_numpy(), events["timestamp"].to_numpy(), user))
    ordered = events.select(EVENT_FIELDS).take(pa.array(order)).combine_chunks()
    users, starts = np.unique(user[order], return_index=True)
    offsets = pa.array(np.append(starts, len(user)).astype(np.int32))
    lists = [
        pa.ListArray.from_arrays(
            offsets, _chunk(ordered[name]).cast(TIMELINE.field(name).type.value_type)
        )
        for name in EVENT_FIELDS
    ]
    return pa.table([pa.array(users), *lists], schema=TIMELINE)


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def ungroup(timelines: pa.Table) -> pa.Table:
    """Timelines back to one row an event: `user` and the fields of a timeline."""
    users = np.repeat(timelines["user"].to_numpy(), np.diff(offsets_of(timelines)))
    return pa.table({"user": users} | {name: flat(timelines, name) for name in EVENT_FIELDS})


def write(timelines: pa.Table, path: Path) -> None:
    """Writes row groups of at most 512 users, so that a block of training is one row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(timelines, path, row_group_size=ROW_GROUP_USERS, **PARQUET_OPTIONS)
