"""Timelines: one row a user, events oldest first, as Arrow lists (`schema.TIMELINE`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data.blocks import row_groups, stretches
from data.contract.encode import HISTORY_COLUMNS, Events
from data.contract.schema import TIMELINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

ROW_GROUP_USERS = 512
STRETCH_BYTES = 1 << 24  # 800,000 events: files are cut that hold more than they were made for
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


def extended(earlier: Iterable[pa.Table], events: pa.Table) -> Iterator[pa.Table]:
    """Timelines with later events, a stretch of users at a time.

    Args:
        earlier: timelines, users ascending over all of them.
        events: as `group` takes them, N rows; those of one time come after the earlier ones.

    Returns:
        What `group` makes of all events together, in parts.
    """
    events = events.take(pa.array(np.argsort(events["user"].to_numpy(), kind="stable")))
    users, start = events["user"].to_numpy(), 0
    for stretch in earlier:
        end = int(np.searchsorted(users, stretch["user"][-1].as_py(), side="right"))
        known = before_all(ungroup(stretch)).select(events.column_names)
        yield group(pa.concat_tables([known, events.slice(start, end - start)]))
        start = end
    yield group(events.slice(start))


def before_all(events: pa.Table) -> pa.Table:
    """Earlier rows come before later ones with the same time."""
    least = np.full(events.num_rows, np.iinfo(np.int64).min)
    return events.append_column("sequence", pa.array(least))


def write(parts: Iterable[pa.Table], path: Path, schema: pa.Schema = TIMELINE) -> None:
    """Writes row groups of 512 users, so that a block of training is one row group.

    Args:
        parts: timelines, users ascending over all of them.
        path: of the file.
        schema: `schema.TIMELINE` with any metadata.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, **PARQUET_OPTIONS) as writer:
        for part in filter(len, _in_row_groups(parts)):
            writer.write_table(part.replace_schema_metadata(schema.metadata), ROW_GROUP_USERS)


def _in_row_groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same users in parts of whole row groups, all but the last."""
    left = TIMELINE.empty_table()
    for part in parts:
        together = pa.concat_tables([left, part])
        whole = together.num_rows - together.num_rows % ROW_GROUP_USERS
        yield together.slice(0, whole)
        left = together.slice(whole)
    yield left


def in_stretches(path: Path) -> Iterator[pa.Table]:
    """The timelines of a file in order, as many row groups at a time as fit in 16 MiB."""
    groups = (block for block in row_groups([path]) if block.num_rows)
    with pq.ParquetFile(path, memory_map=True) as file:
        for stretch in stretches(groups, STRETCH_BYTES):
            yield file.read_row_groups([block.row_group for block in stretch])
