"""Edges between boards (collections) and items.

Boards enrol no items: an edge to an item that neither the log nor the item table has is rejected.
Without a column of times all edges are known from the start (timestamp 0); a column of times in a
log with a clock must be filled, for an edge without its time would be known before it was made.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data import parsing
from data.chunks import Chunk, read
from data.headers import check_alike, headers
from data.intake import reasons_of, write_rejects
from data.parsing import whole
from data.rejects import Inspection
from data.routing import open_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.raw_tables import FileSet, TimestampUnit

BOARD = pa.schema(
    [
        ("board", pa.int64()),
        ("item", pa.int32()),
        ("weight", pa.float32()),
        ("timestamp", pa.int64()),
    ]
)
NEEDED = ("board_id", "item_id")
OPTIONAL = ("timestamp", "weight")
UNKNOWN_ITEM = "no item of the log or the item table, or rarer than id.min_count"
LEAST, MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardIntake:
    """What the pass over the edges needs to know.

    Attributes:
        chunks: all of the table.
        paths: file name by number.
        item_ids: folder of the id space.
        folder: where edges are written.
        first_part: number of the first file written.
        rejects: where rejected rows are written.
        block_rows: rows in memory at once.
        dated: the log has a clock, so a time may not be left out of a column of times.
    """

    chunks: tuple[Chunk, ...]
    paths: tuple[Path, ...]
    item_ids: Path
    folder: Path
    first_part: int
    rejects: Path
    block_rows: int
    dated: bool


def check_optional(files: FileSet) -> None:
    """Refuses a time or a weight that only some files of a table have. Raises UserError."""
    check_alike(headers(files), [files.theirs(name) for name in OPTIONAL])


def write_boards(intake: BoardIntake, number: int) -> tuple[int, Counter[str]]:
    """Encodes one chunk of edges, a file a chunk. Returns rows read and rejected, by reason.

    External board ids become int64, text by its 63-bit hash, and items their rows; without a time
    it is 0, without a weight 1.
    """
    chunk = intake.chunks[number]
    rows, reasons = 0, Counter[str]()
    path = intake.folder / f"part-{intake.first_part + number:05d}.parquet"
    with pq.ParquetWriter(path, BOARD, compression="zstd") as writer:
        names = [chunk.files.theirs(name) for name in (*NEEDED, *OPTIONAL)]
        for i, block in enumerate(read(chunk, names, intake.block_rows)):
            inspection = Inspection.of(block, intake.paths)
            writer.write_table(_encoded(intake, chunk, inspection, names))
            rejects = inspection.all_rejects()
            write_rejects(rejects, intake.rejects, f"boards-{number:05d}-{i:03d}")
            rows += block.rows.num_rows + block.rejects.num_rows
            reasons.update(reasons_of(rejects))
    return rows, reasons


def _encoded(
    intake: BoardIntake, chunk: Chunk, inspection: Inspection, names: Sequence[str]
) -> pa.Table:
    where = {name: f"{name} of {inspection.first_file}" for name in names}
    board, item, time, weight = names
    columns = [
        _boards(inspection, board, where[board]),
        _items(intake, inspection, item, where[item]),
        _weights(inspection, weight, where[weight]),
        _times(inspection, time, where[time], (chunk.files.timestamp_unit, intake.dated)),
    ]
    return pa.table(columns, schema=BOARD).filter(pa.array(~inspection.bad))


def _boards(inspection: Inspection, column: str, where: str) -> pa.Array:
    return inspection.accept(column, parsing.event_ids(whole(inspection.rows[column]), where))


def _items(intake: BoardIntake, inspection: Inspection, column: str, where: str) -> pa.Array:
    space = open_ids(intake.item_ids)
    parsed = parsing.ids(whole(inspection.rows[column]), space.ids.type, where)
    rows = space.lookup(parsed.values).astype(np.int32)
    found = parsing.Parsed(pa.array(rows), parsed.faults)
    return inspection.accept(column, found.refuse(rows < space.first_row, UNKNOWN_ITEM))


def _weights(inspection: Inspection, column: str, where: str) -> pa.Array:
    """Positive weights; all 1 without a column."""
    if column not in inspection.rows.column_names:
        return pa.array(np.ones(inspection.rows.num_rows, np.float32))
    raw = whole(inspection.rows[column])
    parsed = parsing.required(parsing.numbers(raw, where), raw)
    values = np.asarray(parsed.values.fill_null(1.0))
    parsed.refuse(values < 0, "negative")
    parsed.refuse(values == 0, "0: no edge")
    parsed.refuse((values < LEAST) | (values > MOST), f"not between {LEAST:.1e} and {MOST:.1e}")
    return inspection.accept(column, parsed).fill_null(1.0).cast(pa.float32())


def _times(
    inspection: Inspection, column: str, where: str, rule: tuple[TimestampUnit, bool]
) -> pa.Array:
    """Times in a unit, needed or not; all 0 without a column."""
    if column not in inspection.rows.column_names:
        return pa.array(np.zeros(inspection.rows.num_rows, np.int64))
    unit, needed = rule
    raw = whole(inspection.rows[column])
    parsed = parsing.times(raw, unit, where)
    accepted = inspection.accept(column, parsing.required(parsed, raw) if needed else parsed)
    return accepted.fill_null(0)
