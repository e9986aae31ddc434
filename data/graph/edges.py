"""Which edges a graph has: those of the board table, or what users engaged with.

Only what was known by a cut-off is an edge: of boards, edges dated before it; of users, positive
events of the parts that may be read and before it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.graph.store import EDGE
from data.training_log import first_touches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from data.dataset import Dataset
    from data.graph.store import Blocks, Ints
    from data.queries import SplitLog

BOARD_IDS = "board_ids.npy"
BLOCK_ROWS = 1 << 18


def has_boards(dataset: Dataset) -> bool:
    """Whether the data set has a board table."""
    return bool(board_files(dataset))


def are_dated(dataset: Dataset) -> bool:
    """Whether board edges say when they were made, as told by the statistics of their files."""
    newest = [
        metadata.row_group(group).column(place).statistics
        for metadata in map(pq.read_metadata, board_files(dataset))
        for place in [metadata.schema.names.index("timestamp")]
        for group in range(metadata.num_row_groups)
    ]
    return any(found is not None and found.max > 0 for found in newest)


def board_files(dataset: Dataset) -> list[Path]:
    """Files of encoded board edges, in order."""
    return sorted((dataset.artifact.path / "boards").glob("part-*.parquet"))


def board_edges(dataset: Dataset, last_ms: int | None, folder: Path) -> tuple[Blocks, int]:
    """Edges of the board table before a moment, in one pass to number the boards.

    Args:
        dataset: with a board table.
        last_ms: edges from then on are left out; None takes all.
        folder: where `board_ids.npy` goes: the int64 ids of the boards, ascending; a board's
            number is its place.

    Returns:
        What gives the EDGE blocks, and the number of boards, which memory grows with.
    """
    blocks = partial(_before, board_files(dataset), last_ms, dataset.item_ids.first_row)
    ids = _board_ids(blocks())
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / BOARD_IDS, ids)
    return partial(_numbered, blocks, ids), len(ids)


def _board_ids(blocks: Iterator[pa.Table]) -> Ints:
    """Distinct boards, ascending; merged whenever as many wait, which sorts each a few times."""
    ids, waiting = np.zeros(0, np.int64), [np.zeros(0, np.int64)]
    for block in blocks:
        waiting.append(np.unique(block["board"].to_numpy()))
        if sum(map(len, waiting)) > len(ids):
            ids, waiting = np.unique(np.concatenate([ids, *waiting])), waiting[:1]
    return np.unique(np.concatenate([ids, *waiting]))


def _before(files: Sequence[Path], last_ms: int | None, first_row: int) -> Iterator[pa.Table]:
    """Edges before a moment to items with a row of their own; earlier releases wrote others too."""
    known = pc.field("item") >= first_row
    if last_ms is not None:
        known &= pc.field("timestamp") < last_ms
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(BLOCK_ROWS):
            table = pa.table(batch).filter(known)
            if table.num_rows:
                yield table


def _numbered(blocks: Blocks, ids: Ints) -> Iterator[pa.Table]:
    for block in blocks():
        number = np.searchsorted(ids, block["board"].to_numpy()).astype(np.int32)
        yield pa.table([number, block["item"], _weight(block), block["timestamp"]], schema=EDGE)


def _weight(block: pa.Table) -> Any:
    """Weights; 1 in a data set from before there were any."""
    if "weight" in block.column_names:
        return block["weight"]
    return np.ones(block.num_rows, np.float32)


def user_edges(log: SplitLog, parts: Sequence[int], last_ms: int | None) -> Blocks:
    """Positive events as edges, a user's number being their row.

    An item that a user engaged with again is one edge of weight 1, of the first time among these
    events. Items without a row of their own (rarer than `id.min_count`) have no edges.

    Args:
        log: data set under its split.
        parts: whose events are edges.
        last_ms: events from then on are left out; None takes all.
    """
    return partial(_engaged, log, tuple(parts), last_ms)


def _engaged(log: SplitLog, parts: tuple[int, ...], last_ms: int | None) -> Iterator[pa.Table]:
    for block in log.blocks():
        chosen = np.isin(block.part, parts) & np.isin(block.events.action, log.positive_codes)
        chosen &= block.events.item >= log.dataset.item_ids.first_row
        if last_ms is not None:
            chosen &= block.events.timestamp < last_ms
        events = block.keep(chosen)
        first = first_touches(events)
        users = np.repeat(block.users, events.lengths)[first]
        columns = [users, events.item[first], np.ones(len(users)), events.timestamp[first]]
        if len(users):
            yield pa.table(
                [pa.array(c).cast(f.type) for c, f in zip(columns, EDGE, strict=True)],
                schema=EDGE,
            )


def no_edges() -> Iterator[pa.Table]:
    """Blocks of a graph without edges."""
    return iter(())
