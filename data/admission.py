"""Which external ids get a row: counting them in blocks, and extending an id space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from data.contract.idspace import IdSpace

MERGE_ROWS = 1 << 21


def count_ids(ids: pa.Array, times: pa.Array) -> pa.Table:
    """How often each id occurs, and its first and last time: columns id, count, first, last."""
    grouped = pa.table({"id": ids, "time": times}).group_by("id")
    found = grouped.aggregate([("time", "count"), ("time", "min"), ("time", "max")])
    return found.rename_columns(["id", "count", "first", "last"])


def no_counts(kind: pa.DataType) -> pa.Table:
    """Counts of nothing."""
    return count_ids(pa.array([], kind), pa.array([], pa.int64()))


def merge_counts(tables: Iterable[pa.Table], kind: pa.DataType) -> pa.Table:
    """Sums counts of blocks; holds all distinct ids and at most 2 million rows more."""
    merged, waiting = no_counts(kind), 0
    parts = [merged]
    for table in tables:
        parts.append(table)
        waiting += table.num_rows
        if waiting > max(MERGE_ROWS, merged.num_rows):
            merged = _merge(parts)
            parts, waiting = [merged], 0
    return _merge(parts)


def _merge(parts: list[pa.Table]) -> pa.Table:
    grouped = pa.concat_tables(parts).group_by("id")
    found = grouped.aggregate([("count", "sum"), ("first", "min"), ("last", "max")])
    return found.rename_columns(["id", "count", "first", "last"])


def admit(
    space: IdSpace, counts: pa.Table, listed: tuple[pa.Array, npt.NDArray[np.int64]], min_count: int
) -> tuple[IdSpace, pa.Table]:
    """Extends an id space.

    Args:
        space: the parent.
        counts: of the ids in the log, those that were waiting before included.
        listed: ids of the item or user table and their creation times; always admitted.
        min_count: events after which another id is admitted.

    Returns:
        The extended space, and the counts of the ids that still wait.
    """
    ids, created_at = listed
    known = pa.array(space.lookup(counts["id"].combine_chunks()) >= space.first_row)
    often = pc.greater_equal(counts["count"], min_count)
    enters = pc.or_(pc.or_(known, often), pc.is_in(counts["id"], ids))
    entering = counts.filter(enters)
    silent = pa.array(np.asarray(pc.invert(pc.is_in(ids, entering["id"].combine_chunks()))))
    quiet = created_at[np.asarray(silent)]
    extended = space.extend(
        pa.concat_arrays([entering["id"].combine_chunks(), ids.filter(silent)]),
        np.concatenate([entering["first"].to_numpy(), quiet]),
        np.concatenate([entering["last"].to_numpy(), quiet]),
    )
    return extended, counts.filter(pc.invert(enters))
