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

BOARD = pa.schema([("board", pa.int64()), ("item", pa.int32()), ("timestamp", pa.int64())])
NEEDED = ("board_id", "item_id")


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

    External board ids become 63-bit hashes, items their rows; without a time it is 0.
    """
    chunk = intake.chunks[number]
    rows, reasons = 0, Counter[str]()
    path = intake.folder / f"part-{intake.first_part + number:05d}.parquet"
    with pq.ParquetWriter(path, BOARD, compression="zstd") as writer:
        names = [chunk.files.theirs(name) for name in (*NEEDED, "timestamp")]
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
    raw, space = inspection.rows, open_ids(intake.item_ids)
    where = [f"{name} of {inspection.first_path}" for name in names]
    board = inspection.accept(names[0], parsing.event_ids(whole(raw[names[0]]), where[0]))
    ids = parsing.ids(whole(raw[names[1]]), space.ids.type, where[1])
    item = space.lookup(inspection.accept(names[1], ids)).astype(np.int32)
    times = pa.array(np.zeros(raw.num_rows, np.int64))
    if names[2] in raw.column_names:
        parsed = parsing.times(whole(raw[names[2]]), chunk.files.timestamp_unit, where[2])
        times = inspection.accept(names[2], parsed).fill_null(0)
    table = pa.table([board, item, times], schema=BOARD)
    return table.filter(pa.array(~inspection.bad))
