"""Edges between boards (collections) and items."""

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
from data.intake import reasons_of, write_rejects
from data.parsing import whole
from data.rejects import Inspection
from data.routing import open_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

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
UNKNOWN_ITEM = "no item of the log or the item table"


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
    """

    chunks: tuple[Chunk, ...]
    paths: tuple[Path, ...]
    item_ids: Path
    folder: Path
    first_part: int
    rejects: Path
    block_rows: int


def write_boards(intake: BoardIntake, number: int) -> tuple[int, Counter[str]]:
    """Encodes one chunk of edges, a file a chunk. Returns rows read and rejected, by reason.

    External board ids become 63-bit hashes, items their rows; without a time it is 0, without a
    weight 1. Rejected are edges to what is no item, and weights that are none.
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
    raw = inspection.rows
    board, item, time, weight = names
    where = {name: f"{name} of {inspection.first_path}" for name in names}
    boards = inspection.accept(board, parsing.event_ids(whole(raw[board]), where[board]))
    items = _items(intake, inspection, item, where[item])
    times = pa.array(np.zeros(raw.num_rows, np.int64))
    if time in raw.column_names:
        parsed = parsing.times(whole(raw[time]), chunk.files.timestamp_unit, where[time])
        times = inspection.accept(time, parsed).fill_null(0)
    weights = pa.array(np.ones(raw.num_rows, np.float32))
    if weight in raw.column_names:
        parsed = parsing.required(*_numbers(whole(raw[weight]), where[weight]))
        weights = inspection.accept(weight, parsed).fill_null(0).cast(pa.float32())
    table = pa.table([boards, items, weights, times], schema=BOARD)
    return table.filter(pa.array(~inspection.bad))


def _items(intake: BoardIntake, inspection: Inspection, column: str, where: str) -> pa.Array:
    """Item rows; an edge to what neither the log nor the item table has is rejected."""
    space = open_ids(intake.item_ids)
    parsed = parsing.ids(whole(inspection.rows[column]), space.ids.type, where)
    rows = space.lookup(parsed.values).astype(np.int32)
    found = parsing.Parsed(pa.array(rows), parsed.faults)
    return inspection.accept(column, found.refuse(rows < space.first_row, UNKNOWN_ITEM))


def _numbers(column: pa.Array, where: str) -> tuple[parsing.Parsed, pa.Array]:
    """Weights above 0."""
    parsed = parsing.numbers(column, where)
    largest = np.finfo(np.float32).max
    values = np.asarray(parsed.values.fill_null(1.0))
    parsed.refuse(~(values > 0), "not above 0")
    return parsed.refuse(values > largest, "too large"), column
