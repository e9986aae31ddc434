"""Rows on their way from one division of a table to another, through files.

A writer sorts its rows by the partition that they go to and writes one record batch for each; a
reader maps only its own batch of every file. Nothing but one partition is ever in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def spill(
    table: pa.Table, partition: npt.NDArray[np.int64], num_partitions: int, path: Path
) -> None:
    """Writes `table` as one record batch a partition; rows of a partition keep their order.

    Args:
        table: N rows.
        partition: [N] in 0 .. num_partitions - 1.
        num_partitions: batches in the file.
        path: file to write.
    """
    order = np.argsort(partition, kind="stable")
    ordered = table.take(pa.array(order)).combine_chunks()
    ends = np.cumsum(np.bincount(partition, minlength=num_partitions))
    whole = ordered.to_batches()[0] if len(ordered) else None
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for start, end in zip(np.append(0, ends[:-1]).tolist(), ends.tolist(), strict=True):
            if whole is None:
                whole = pa.RecordBatch.from_arrays(
                    [pa.array([], f.type) for f in table.schema], schema=table.schema
                )
            writer.write_batch(whole.slice(start, end - start))


def gather(paths: Sequence[Path], partition: int, schema: pa.Schema) -> pa.Table:
    """The rows of one partition from all files, in the order of the files; memory-mapped."""
    batches = [_batch(path, partition) for path in paths]
    return pa.Table.from_batches(batches, schema)


def _batch(path: Path, partition: int) -> pa.RecordBatch:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(partition)


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a table as a single record batch."""
    zeros = np.zeros(table.num_rows, np.int64)
    spill(table, zeros, 1, path)


def read_table(path: Path) -> pa.Table:
    """Memory-maps what `write_table` wrote."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
