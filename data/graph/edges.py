"""Which edges a graph has: those of the board table, or what users engaged with.

Only what was known by a cut-off is an edge: of boards, edges dated before it; of users, positive
events of the parts that may be read and before it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

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


def board_files(dataset: Dataset) -> list[Path]:
    """Files of encoded board edges, in order."""
    return sorted((dataset.artifact.path / "boards").glob("part-*.parquet"))


def board_edges(dataset: Dataset, last_ms: int | None, folder: Path) -> tuple[Blocks, int]:
    """Edges of the board table before a moment, in one pass to number the boards.

    Args:
        dataset: with a board table.
        last_ms: edges from then on are left out; None takes all.
        folder: where `board_ids.npy` goes: the 63-bit hashes of the boards, ascending; a board's
            number is its place.

    Returns:
        What gives the EDGE blocks, and the number of boards, which memory grows with.
    """
    files = board_files(dataset)
    ids = np.zeros(0, np.int64)
    for block in _before(files, last_ms):
        ids = np.union1d(ids, block["board"].to_numpy())
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / BOARD_IDS, ids)
    return partial(_numbered, files, last_ms, ids), len(ids)


def _before(files: Sequence[Path], last_ms: int | None) -> Iterator[pa.Table]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(BLOCK_ROWS):
            table = pa.table(batch)
            known = table if last_ms is None else table.filter(pc.field("timestamp") < last_ms)
            if known.num_rows:
                yield known


def _numbered(files: Sequence[Path], last_ms: int | None, ids: Ints) -> Iterator[pa.Table]:
    for block in _before(files, last_ms):
        number = np.searchsorted(ids, block["board"].to_numpy()).astype(np.int32)
        yield pa.table([number, block["item"], block["weight"], block["timestamp"]], schema=EDGE)


def user_edges(log: SplitLog, parts: Sequence[int], last_ms: int | None) -> Blocks:
    """Positive events as edges, a user's number being their row.

    An item that a user engaged with again is one edge, of the first time.

    Args:
        log: data set under its split.
        parts: whose events are edges.
        last_ms: events from then on are left out; None takes all.
    """
    return partial(_engaged, log, tuple(parts), last_ms)


def _engaged(log: SplitLog, parts: tuple[int, ...], last_ms: int | None) -> Iterator[pa.Table]:
    for block in log.blocks():
        chosen = np.isin(block.part, parts) & np.isin(block.events.action, log.positive_codes)
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
